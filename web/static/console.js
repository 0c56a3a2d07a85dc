// What a page gains where scripts run: it refreshes itself, tells times in words, copies, and knows some keys.
// Everything it does is also a link or a form.
"use strict";
(() => {
  const body = document.body;

  // --- live: one event stream, closed while nobody looks -----------------------------------------
  let source = null;
  let retry = 0;
  const state = document.getElementById("live-state");
  const say = (text) => { if (state) state.textContent = text; };
  const open = () => {
    if (source || document.hidden || body.dataset.live !== "on") return;
    source = new EventSource("/events");
    source.onopen = () => { retry = 0; say("live"); };
    source.addEventListener("changed", (event) => {
      for (const topic of JSON.parse(event.data)) htmx.trigger(body, "live:" + topic);
    });
    source.onerror = () => {
      source.close();
      source = null;
      say("reconnecting");
      retry = Math.min(retry + 1, 6);
      setTimeout(open, 250 * retry);
    };
  };
  const close = () => { if (source) { source.close(); source = null; say("paused"); } };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return close();
    open();
    htmx.trigger(body, "live:all");
  });
  window.addEventListener("pagehide", close);

  // --- times ---------------------------------------------------------------------------------------
  const steps = [[1, "s"], [60, "min"], [3600, "h"], [86400, "d"]];
  const relative = (seconds) => {
    const past = Math.max(0, seconds);
    let [size, unit] = steps[0];
    for (const step of steps) if (past >= step[0]) [size, unit] = step;
    return `${Math.floor(past / size)} ${unit} ago`;
  };
  const times = (root) => {
    for (const time of root.querySelectorAll("time[data-relative]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      time.title = `${time.dateTime} · ${new Date(at).toLocaleString()}`;
      time.textContent = relative((Date.now() - at) / 1000);
    }
  };
  setInterval(() => { if (!document.hidden) times(document); }, 1000);

  // --- theme: follows the system until somebody chooses ----------------------------------------------
  const theme = document.getElementById("theme");
  const order = ["", "light", "dark"];
  const names = { "": "theme: system", light: "theme: light", dark: "theme: dark" };
  const apply = (name) => {
    if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
    if (theme) theme.textContent = names[name];
  };
  let chosen = localStorage.getItem("theme") || "";
  apply(chosen);
  if (theme) {
    theme.hidden = false;
    theme.addEventListener("click", () => {
      chosen = order[(order.indexOf(chosen) + 1) % order.length];
      localStorage.setItem("theme", chosen);
      apply(chosen);
    });
  }

  // --- copy, keys --------------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    navigator.clipboard.writeText(button.dataset.copy || location.href).then(() => {
      const before = button.textContent;
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = before; }, 1500);
    });
  });
  const places = { o: "/", p: "/pools", r: "/routes", d: "/decisions", l: "/log" };
  let going = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) return;
    if (going && places[event.key]) { location.href = places[event.key]; return; }
    going = event.key === "g";
    if (going) setTimeout(() => { going = false; }, 1000);
    const rows = [...document.querySelectorAll("tbody tr a.row")];
    const at = rows.indexOf(document.activeElement);
    if (event.key === "j" && rows.length) rows[Math.min(at + 1, rows.length - 1)].focus();
    if (event.key === "k" && rows.length) rows[Math.max(at - 1, 0)].focus();
    if (event.key === "/") {
      const field = document.querySelector("form.filter input");
      if (field) { event.preventDefault(); field.focus(); }
    }
    if (event.key === "?") location.href = "/help";
  });

  // --- what htmx may do, and what happens after it did ----------------------------------------------
  document.addEventListener("htmx:afterSwap", (event) => times(event.target));
  document.addEventListener("htmx:responseError", () => say("reconnecting"));
  times(document);
  open();
})();
