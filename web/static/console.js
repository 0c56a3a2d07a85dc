// What a page gains where scripts run: it refreshes itself, tells times in words, copies, and knows some keys.
// Everything it does is also a link or a form.
"use strict";
(() => {
  const body = document.body;
  const byId = (id) => document.getElementById(id);
  const clock = (date) => date.toISOString().slice(11, 19);

  // --- live: one event stream, closed while nobody looks --------------------------------------------
  const LISTS = ["decisions", "log"];
  const RETRY_MIN = 250;
  const RETRY_MAX = 2000;
  const ASLEEP_AFTER = 30 * 60 * 1000;
  let source = null;
  let retry = RETRY_MIN;
  let again = 0;
  let lostAt = null;
  let paused = false;
  let asleep = false;
  let touched = Date.now();
  let state = "";
  const held = new Set();
  const say = (text) => {
    state = text;
    const place = byId("live-state");
    if (place) place.textContent = text;
  };
  // What is read or typed in is not moved away.
  const reading = (topic) => {
    const list = byId(topic);
    return list && (list.querySelector("tbody:hover") || list.querySelector("tbody :focus"));
  };
  const refresh = (topics) => {
    for (const topic of topics) {
      if (LISTS.includes(topic) && reading(topic)) held.add(topic);
      else htmx.trigger(body, "live:" + topic);
    }
    if (!paused) say(held.size ? "live, waiting for you" : "live");
  };
  const flush = () => {
    const topics = [...held].filter((topic) => !reading(topic));
    for (const topic of topics) held.delete(topic);
    if (topics.length && source) refresh(topics);
  };
  const found = () => {
    retry = RETRY_MIN;
    lostAt = null;
    say("live");
  };
  const lost = () => {
    if (!lostAt) lostAt = new Date();
    say("reconnecting");
    const strip = byId("strip");
    if (!strip) return;
    strip.classList.add("warn");
    const words = strip.querySelector("span");
    words.textContent = `no answer from Pointsman since ${clock(lostAt)} UTC: what is shown is from before`;
  };
  const open = () => {
    clearTimeout(again);
    if (source || paused || asleep || document.hidden) return;
    source = new EventSource("/events");
    source.onopen = found;
    source.addEventListener("changed", (event) => refresh(JSON.parse(event.data)));
    source.onerror = () => {
      close();
      lost();
      again = setTimeout(open, retry);
      retry = Math.min(retry * 2, RETRY_MAX);
    };
  };
  const close = () => {
    clearTimeout(again);
    if (source) source.close();
    source = null;
  };
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return open();
    close();
    say(paused ? "paused" : "");
  });
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  document.addEventListener("pointerout", () => setTimeout(flush, 50));
  document.addEventListener("focusout", () => setTimeout(flush, 50));
  // A page that nobody has touched for long is left open, not looked at.
  const touch = () => {
    touched = Date.now();
    if (!asleep) return;
    asleep = false;
    open();
  };
  for (const name of ["pointermove", "pointerdown", "keydown", "wheel", "focus"]) {
    window.addEventListener(name, touch, { passive: true });
  }
  setInterval(() => {
    if (asleep || paused || Date.now() - touched < ASLEEP_AFTER) return;
    asleep = true;
    close();
    say("asleep until somebody is here");
  }, 60 * 1000);
  const pause = byId("pause");
  const toggle = () => {
    paused = !paused;
    pause.textContent = paused ? "resume" : "pause";
    if (paused) { close(); say("paused"); } else open();
  };
  pause.hidden = false;
  pause.addEventListener("click", toggle);

  // --- what a refresh must not lose: open tables, how far they are scrolled; what it tells -------------
  const kept = new Map();
  document.addEventListener("htmx:beforeSwap", (event) => {
    const old = event.detail.target;
    if (!old || !old.id) return;
    if (old.contains(document.activeElement) && document.activeElement.matches(".plot")) focused = document.activeElement.id;
    kept.set(old.id, {
      newest: Number(old.dataset.newest || 0),
      open: [...old.querySelectorAll("details[open][id]")].map((one) => one.id),
      scrolled: [...old.querySelectorAll(".table")].map((one) => one.scrollLeft),
    });
  });
  const arrived = (id) => {
    const now = byId(id);
    const before = kept.get(id);
    if (!now || !before) return;
    kept.delete(id);
    for (const name of before.open) if (byId(name)) byId(name).open = true;
    now.querySelectorAll(".table").forEach((one, index) => { one.scrollLeft = before.scrolled[index] || 0; });
    if (!now.dataset.noun || !before.newest) return;
    const rows = [...now.querySelectorAll("tr[data-position]")];
    const fresh = rows.filter((row) => Number(row.dataset.position) > before.newest);
    for (const row of fresh) row.classList.add("new");
    if (fresh.length) tell(fresh.length, now.dataset.noun);
  };
  let untold = 0;
  let telling = 0;
  const tell = (count, noun) => {
    // One sentence every few seconds: a screen reader has other things to say.
    untold += count;
    if (telling) return;
    telling = setTimeout(() => {
      byId("announce").textContent = `${untold} new: ${noun}${untold === 1 ? "" : "s"}`.replace("entrys", "entries");
      untold = telling = 0;
    }, 2000);
  };
  document.addEventListener("htmx:afterSwap", (event) => {
    const id = event.detail.target.id;
    arrived(id);
    if (id === "strip") say(state);
    enhance(byId(id) || document);
  });
  document.addEventListener("htmx:sendError", lost);

  // --- times -------------------------------------------------------------------------------------------
  const steps = [[1, "s"], [60, "min"], [3600, "h"], [86400, "d"]];
  const relative = (seconds) => {
    if (seconds < 1) return "now";
    let [size, unit] = steps[0];
    for (const step of steps) if (seconds >= step[0]) [size, unit] = step;
    return `${Math.floor(Math.max(0, seconds) / size)} ${unit} ago`;
  };
  const times = (root) => {
    for (const time of root.querySelectorAll("time[data-relative]")) {
      const at = Date.parse(time.dateTime);
      if (Number.isNaN(at)) continue;
      time.textContent = relative((Date.now() - at) / 1000);
      time.title = `${time.dateTime} · here ${new Date(at).toLocaleString()}`;
    }
  };
  setInterval(() => { if (!document.hidden && !paused && !asleep) times(document); }, 1000);

  // --- theme: follows the system until somebody chooses --------------------------------------------------
  const theme = byId("theme");
  const order = ["", "light", "dark"];
  const names = { "": "theme: system", light: "theme: light", dark: "theme: dark" };
  const apply = (name) => {
    if (name) document.documentElement.dataset.theme = name; else delete document.documentElement.dataset.theme;
    theme.textContent = names[name];
  };
  let chosen = order.includes(localStorage.getItem("theme")) ? localStorage.getItem("theme") : "";
  apply(chosen);
  theme.hidden = false;
  theme.addEventListener("click", () => {
    chosen = order[(order.indexOf(chosen) + 1) % order.length];
    localStorage.setItem("theme", chosen);
    apply(chosen);
  });

  // --- charts: read by pointing, and by arrow keys where they have the focus --------------------------------
  // A point of a chart is a row of the table beneath it, so what is said is what stands there.
  let read = null;
  let focused = "";
  const points = (plot) => [...plot.closest("figure").querySelectorAll("tbody tr")];
  const told = (plot, row) => {
    const names = [...plot.closest("figure").querySelectorAll("thead th")].slice(1, -1);
    const cells = [...row.querySelectorAll("td")].map((cell) => cell.textContent);
    const happened = cells.pop();
    const values = cells.map((value, at) => cells.length > 1 ? `${names[at].textContent} ${value}` : value);
    const time = row.querySelector("th").textContent;
    return `${time} UTC: ${values.join(" · ")}${happened ? ` · ${happened}` : ""}`;
  };
  const hint = "point at it, or use the arrow keys";
  const drawn = (plot) => {
    const svg = plot.querySelector("svg[data-plot]");
    const [left, width, whole] = svg.dataset.plot.split(" ").map(Number);
    return { svg, left, width, whole };
  };
  const unread = (plot) => {
    plot.querySelector(".cross")?.remove();
    plot.querySelector(".readout").textContent = hint;
    if (read && read.id === plot.id) read = null;
  };
  const show = (plot, index, by, x) => {
    const rows = points(plot);
    if (!rows.length) return;
    const at = Math.max(0, Math.min(rows.length - 1, index));
    if (read && read.id !== plot.id) { const other = byId(read.id); if (other) unread(other); }
    const { svg, left, width } = drawn(plot);
    let cross = svg.querySelector(".cross");
    if (!cross) {
      cross = document.createElementNS("http://www.w3.org/2000/svg", "line");
      cross.setAttribute("class", "cross");
      cross.setAttribute("y1", "6");
      cross.setAttribute("y2", "112");
      svg.append(cross);
    }
    for (const end of ["x1", "x2"]) cross.setAttribute(end, left + width * at / Math.max(1, rows.length - 1));
    const text = told(plot, rows[at]);
    plot.querySelector(".readout").textContent = text;
    plot.setAttribute("aria-valuenow", at);
    plot.setAttribute("aria-valuetext", text);
    read = { id: plot.id, index: at, time: rows[at].querySelector("th").textContent, by, x };
  };
  const pointed = (plot, clientX) => {
    const { svg, left, width, whole } = drawn(plot);
    const place = svg.getBoundingClientRect();
    const along = ((clientX - place.left) * whole / place.width - left) / width;
    return Math.round(along * (points(plot).length - 1));
  };
  const plotOf = (event) => event.target instanceof Element ? event.target.closest(".plot") : null;
  document.addEventListener("pointermove", (event) => {
    const plot = plotOf(event);
    if (plot) show(plot, pointed(plot, event.clientX), "pointer", event.clientX);
    else if (read && read.by === "pointer" && byId(read.id)) unread(byId(read.id));
  });
  document.addEventListener("focusout", (event) => {
    const plot = plotOf(event);
    // A refresh takes the place of the chart that has the focus: that is no leaving.
    if (plot) setTimeout(() => { if (plot.isConnected && read && read.by === "keys" && read.id === plot.id) unread(plot); });
  });
  document.addEventListener("keydown", (event) => {
    const plot = plotOf(event);
    if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const last = points(plot).length - 1;
    const at = read && read.id === plot.id ? read.index : last + 1;
    const moves = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, PageUp: at - 10,
      PageDown: at + 10, Home: 0, End: last };
    if (event.key === "Escape") unread(plot);
    if (!(event.key in moves)) return;
    event.preventDefault();
    show(plot, moves[event.key], "keys");
  });
  const readable = (root) => {
    for (const plot of root.querySelectorAll(".plot:not([role])")) {
      const svg = plot.querySelector("svg");
      const count = points(plot).length;
      const attributes = { role: "slider", tabindex: "0", "aria-label": `${svg.getAttribute("aria-label")}, over time`,
        "aria-valuemin": "0", "aria-valuemax": String(Math.max(0, count - 1)), "aria-valuenow": String(Math.max(0, count - 1)),
        "aria-valuetext": count ? told(plot, points(plot)[count - 1]) : "nothing" };
      for (const [name, value] of Object.entries(attributes)) plot.setAttribute(name, value);
      svg.setAttribute("aria-hidden", "true");
      plot.querySelector(".readout").hidden = false;
    }
    // After a refresh the focus is where it was, and the same moment is read on, or what is under the pointer.
    if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
    focused = "";
    const plot = read && byId(read.id);
    if (!plot || plot.querySelector(".cross")) return;
    const { by, x, time, index } = read;
    if (by === "pointer") return show(plot, pointed(plot, x), by, x);
    const found = points(plot).findIndex((row) => row.querySelector("th").textContent === time);
    show(plot, found < 0 ? index : found, by);
  };

  // --- copy, keys ------------------------------------------------------------------------------------------
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const before = button.dataset.label || button.textContent;
    button.dataset.label = before;
    const show = (text) => {
      button.textContent = text;
      setTimeout(() => { button.textContent = before; }, 1500);
    };
    navigator.clipboard.writeText(button.dataset.copy || location.href).then(() => show("Copied"), () => show("Not copied"));
  });
  const places = { o: "/", p: "/pools", r: "/routes", d: "/decisions", l: "/log" };
  let going = 0;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
    if (Date.now() - going < 1000 && places[event.key]) { location.href = places[event.key]; return; }
    going = event.key === "g" ? Date.now() : 0;
    const rows = [...document.querySelectorAll("tbody tr a.row")];
    const at = rows.indexOf(document.activeElement);
    if (event.key === "j" && rows.length) rows[Math.min(at + 1, rows.length - 1)].focus();
    if (event.key === "k" && rows.length) rows[Math.max(at - 1, 0)].focus();
    if (event.key === "p") toggle();
    if (event.key === "?") location.href = "/help";
    if (event.key === "/") {
      const field = document.querySelector("form.filter input");
      if (field) { event.preventDefault(); field.focus(); } else location.href = "/decisions";
    }
  });

  const enhance = (root) => {
    times(root);
    readable(root);
    for (const button of root.querySelectorAll("[data-copy][hidden]")) button.hidden = false;
  };
  enhance(document);
  open();
})();
