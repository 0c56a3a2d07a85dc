"""Debian's Chromium under Playwright, and axe, for the tests of pages."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

AXE = (Path(__file__).parents[1] / "vendor/axe.min.js").read_text()
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DEBIAN = ("/usr/bin/chromium", "/usr/bin/chromium-browser")
WITHIN = 60_000
"""Milliseconds for anything on a page; it takes tenths of a second on a machine with nothing else to do."""


def find_chromium() -> str:
    """The binary; without one the test is skipped, but not where CI runs it."""
    found = next((path for path in DEBIAN if Path(path).exists()), None)
    if found is None:
        reason = "no chromium; on Debian: sudo apt-get install -y chromium"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """One browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A page, and what it complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url')})")

    def violations(self) -> list[str]:
        """What axe finds on the page as it is."""
        # Pages forbid inline scripts, so axe comes in beside the page's policy, as a browser's extension does.
        self.page.evaluate(AXE)
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{v['id']}: {v['help']}: {json.dumps([n['html'][:160] for n in v['nodes'][:3]])}"
            for v in found["violations"]
        ]


@contextmanager
def visit(browser: Browser, url: str, **options: Any) -> Iterator[Visit]:
    """A new context with one page; at its end nothing may have been complained about."""
    context: BrowserContext = browser.new_context(base_url=url, **options)
    context.set_default_timeout(WITHIN)
    try:
        found = Visit(context.new_page())
        yield found
        assert found.complaints == []
    finally:
        context.close()
