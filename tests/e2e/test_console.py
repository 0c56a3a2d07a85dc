"""The console of the running demo: a weight moved in a browser moves the traffic; a killed control process is bridged."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from playwright.sync_api import Page, expect
from worlds.browser import chromium, visit
from worlds.system import POINTSMAN, System, demo
from worlds.waiting import wait_for

from pointsman.cli.commands.console_client import ask
from pointsman.cli.supervising.console_place import running_console, tunnel
from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import WeightsIntended
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.opening import open_log
from pointsman.eventlog.stores.log import Log

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")


@contextmanager
def clients(system: System, rate: int) -> Iterator[None]:
    """Requests through the gateway until the block ends."""
    process = subprocess.Popen(
        [*POINTSMAN, "traffic", f"http://127.0.0.1:{system.gateway}", "--rate", str(rate)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def url_of(system: System) -> str:
    wait_for(lambda: running_console(system.data) is not None, 10.0, "the console")
    url = running_console(system.data)
    assert url is not None
    assert f"console         {url}" in system.said()
    return url


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself."""
    return subprocess.run([*POINTSMAN, *words], capture_output=True, text=True, timeout=30, check=False)


def only_route(url: str) -> dict[str, Any]:
    told: Any = ask(url, "/api/v1")
    [rule] = told["routes"]
    assert isinstance(rule, dict)
    return rule


def change(page: Page, rule: dict[str, Any], weights: tuple[int, int], reason: str) -> None:
    """Fill the form and confirm it."""
    page.goto(rule["change"])
    for backend, weight in zip(rule["backends"], weights, strict=True):
        page.locator(f'input[name="weight:{backend["key"]}"]').fill(str(weight))
    page.get_by_label("Reason").fill(reason)
    page.get_by_role("button", name="See what will change").click()
    page.get_by_role("button", name="Change weights").click()
    expect(page.get_by_text("recorded, written and read back")).to_be_visible()


def test_a_weight_moved_in_the_browser_moves_the_observed_share_within_seconds(tmp_path: Path) -> None:
    with demo(tmp_path) as system, chromium() as browser, clients(system, 40):
        url = url_of(system)
        rule = only_route(url)
        file = system.manifests / "route.yaml"
        before = file.read_text()
        with visit(browser, url) as found:
            change(found.page, rule, (20, 80), "most of it to the new build")
            began = time.monotonic()
            while True:
                told = only_route(url)
                second = told["backends"][1]
                if second["requests"] >= 40 and (second["observed_share"] or 0) > 0.5:
                    break
                assert time.monotonic() - began < 15, told
                time.sleep(0.2)
            assert "since the weights were set" in told["observed_over"]
            assert told["step"] == "settling"
            wait_for(lambda: only_route(url)["step"] == "in step", 120.0, "four hundred requests that agree")
            expect(found.page.get_by_text("in step", exact=True).first).to_be_visible()

        # Only the numbers of the file changed.
        after = file.read_text()
        assert after != before
        assert re.sub(r"weight: \d+", "weight: N", after) == re.sub(r"weight: \d+", "weight: N", before)
        told_by = ["status", "--data-dir", str(system.data)]
        assert "weight 80, 80.0 % desired" in run(*told_by).stdout
        wait_for(lambda: run(*told_by).returncode == 0, 30.0, "a status without trouble, which a busy machine may have")

        # A program asks for the same by the same way.
        words = ["--route", "default/llm-route", "--reason", "by hand", f"{rule['backends'][0]['name']}=60"]
        asked = run("weights", "set", "--data-dir", str(system.data), *words)
        assert asked.returncode == 0, asked.stderr
        assert ": 20 → 60\n" in asked.stdout
        assert file.read_text() == after.replace("weight: 20", "weight: 60")


def test_a_page_survives_the_control_process_without_a_reload(tmp_path: Path) -> None:
    with demo(tmp_path) as system, chromium() as browser, clients(system, 10):
        url = url_of(system)
        with visit(browser, url) as found:
            page = found.page
            page.goto("/decisions")
            expect(page.locator("#live-state")).to_have_text("live")
            page.evaluate("window.notReloaded = true")
            page.wait_for_selector("tbody tr")
            newest = int(page.locator("#decisions").get_attribute("data-newest") or 0)
            system.kill("control")
            expect(page.locator("#live-state")).to_have_text("live", timeout=20_000)
            wait_for(
                lambda: int(page.locator("#decisions").get_attribute("data-newest") or 0) > newest,
                10.0,
                "a new decision",
            )
            assert page.evaluate("window.notReloaded")
            found.complaints.clear()  # the connections that broke meanwhile
        assert running_console(system.data) == url


async def cut_off(log: Log, weights: tuple[int, int], name: str) -> None:
    """Leave the log as a control process does that dies after it recorded an intent."""
    route = next(iter(log.state.routes.values()))
    before = route.rules[0].backends
    after = tuple(msgspec.structs.replace(b, weight=w) for b, w in zip(before, weights, strict=True))
    intent = WeightsIntended(name, route.route, 0, route.version, before, after, "somebody", "cut off", time.time())
    appender = Appender(log, lambda commit: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(appender.run)
        await appender.append(intent)
        appender.close()


def test_a_change_that_was_cut_off_gets_its_end_from_the_file(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        rule = only_route(url_of(system))
    present = tuple(backend["weight"] for backend in rule["backends"])
    for name, weights in (("not-written", (1, 99)), ("as-it-is", present)):
        log = open_log(tmp_path / "data/log", "test")
        trio.run(cut_off, log, weights, name)
        log.close()
    with demo(tmp_path) as system:
        url = url_of(system)
        wait_for(lambda: all(c["state"] for c in changes(url, rule)) and len(changes(url, rule)) >= 2, 10.0, "ends")
        found = {
            c["weights"][0]["after"]: (c["word"], c["cause"]) for c in changes(url, rule) if c["actor"] == "somebody"
        }

    assert found[1][0] == "not made"
    assert "cut off before it was written" in found[1][1]
    assert found[present[0]] == ("written", "")


def changes(url: str, rule: dict[str, Any]) -> list[dict[str, Any]]:
    """A route's history, without what is still being written."""
    told: Any = ask(url, f"/api/v1{rule['href']}")
    return [c for c in told["changes"] if c["actor"] == "somebody" and c["word"] != "writing"]


def test_over_ssh_the_tunnel_is_told() -> None:
    environment = {"SSH_CONNECTION": "192.0.2.7 51000 192.0.2.1 22", "USER": "ops"}

    assert tunnel(8090, environment) == "ssh -L 8090:127.0.0.1:8090 ops@192.0.2.1"
    assert tunnel(8090, {}) == ""
    assert tunnel(8090, {"SSH_CONNECTION": "garbage"}) == ""


def test_serve_refuses_a_console_off_loopback_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    words = ["serve", "--manifests", str(tmp_path / "manifests"), "--data-dir", str(tmp_path / "data")]
    words += ["--console-address", "0.0.0.0", "--health-port", "0", "--metrics-port", "0"]
    found = subprocess.run([*POINTSMAN, *words[:-4]], capture_output=True, text=True, timeout=30, check=False)

    assert found.returncode != 0
    assert "no sign-in yet" in found.stderr
    assert "ssh -L" in found.stderr
