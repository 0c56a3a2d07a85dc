"""What others chose neither mirrors a page's lines nor moves the text beside it, wherever it is shown."""

import re
import sys
import unicodedata
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given, strategies as st
from markupsafe import escape
from worlds.console_world import Running, events_of, running
from worlds.event_strategies import with_behind

from pointsman.core.events import (
    BackendRef,
    EndpointJoined,
    Event,
    LabelsChanged,
    Origin,
    PickerStarted,
    PoolApplied,
    RequestRouted,
    RouteMatch,
    RouteObserved,
    RouteRule,
    WeightsIntended,
)
from pointsman.web.drawing.isolating import isolated, turned_to_words

EVIL = "\u202e\u2067\u200f שלום עולם\u2066"
"""Turns what follows around, opens isolates that nothing closes, and holds words from right to left."""
TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
HEBREW = re.compile("[\u05d0-\u05ea]")
NO_MARKUP = {"title", "option", "textarea", "text"}
"""Elements that hold no `<bdi>`: each shows its text in a place of its own, an SVG's `text` too."""
SHOWN = {"title", "aria-label", "alt", "placeholder", "label"}
"""Attributes that are read by people."""
VOID = {"meta", "link", "input", "br", "path", "circle", "rect", "line"}


class Reading(HTMLParser):
    """The places of a page at which a text stands that can disturb others."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.isolated = 0
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.stack.append(tag)
        self.wrong += [f"{tag} {name}={v!r}" for name, v in attrs if name in SHOWN and TURNING.search(v or "")]

    def handle_endtag(self, tag: str) -> None:
        if tag in self.stack:
            while self.stack.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        here = self.stack[-1] if self.stack else ""
        if here != "textarea" and TURNING.search(data):
            self.wrong.append(f"{self.stack}: {data!r}")
        if HEBREW.search(data) and here not in NO_MARKUP:
            if "bdi" in self.stack:
                self.isolated += 1
            else:
                self.wrong.append(f"{self.stack}: {data!r}")


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("console"), 8) as found:
        yield found


def test_every_page_isolates_what_clients_and_manifests_chose(console: Running) -> None:
    world = console.world

    async def say() -> list[int]:
        before = (BackendRef("default/p" + EVIL, 1), BackendRef("default/q" + EVIL, 2))
        rule = RouteRule((RouteMatch(),), before, name="rule" + EVIL)
        route = "default/r" + EVIL
        origin = Origin("picker-0" + EVIL, 5, 1, 0)
        facts = world_request(console)
        events: list[Event] = [
            PoolApplied("default/p" + EVIL, {"app" + EVIL: "a" + EVIL}, (8000,), "epp" + EVIL, source="f" + EVIL),
            EndpointJoined(70, "default/p" + EVIL, "uid" + EVIL, "default", "pod" + EVIL, "10.0.0.9", 8000),
            LabelsChanged(70, ("adapter" + EVIL,), ("waiting" + EVIL,)),
            RouteObserved(route, (rule,), source="route.yaml" + EVIL, version="v" + EVIL),
            WeightsIntended("c" + EVIL, route, 0, "v" + EVIL, before, before[::-1], "actor" + EVIL, "why" + EVIL, 0.0),
            PickerStarted(origin, "build" + EVIL, 1, {}),
            msgspec.structs.replace(facts, origin=msgspec.structs.replace(facts.origin, n=world.n + 1)),
        ]
        world.n += 1
        positions = [await world.appender.append(event) for event in events]
        await world.index()
        return positions

    positions = console.call(say)
    pool, route = "default/p" + EVIL, "default/r" + EVIL
    paths = [
        "/",
        "/pools",
        "/routes",
        "/decisions",
        "/log?class=all",
        f"/pools/{quote(pool)}",
        f"/routes/{quote(route)}",
    ]
    paths += [f"/routes/{quote(route)}/rules/0/weights", f"/decisions?model={quote('m' + EVIL)}", f"/{quote(EVIL)}"]
    paths += [f"/log/{position}" for position in positions] + [f"/decisions/{positions[-1]}"]
    for path in paths:
        answer = console.ask(path)
        reading = Reading()
        reading.feed(answer.body)

        assert answer.status in (200, 400, 404), (path, answer.body)
        assert reading.wrong == [], path
        assert reading.isolated or path.startswith("/decisions?"), path


def world_request(console: Running) -> RequestRouted:
    """A decision of the log with hostile text in every field that a client fills."""
    event = next(e for e in events_of(console.world.appender) if isinstance(e, RequestRouted))
    pool = event.request.pool
    request = msgspec.structs.replace(with_behind(event.request, EVIL), pool=pool)
    return msgspec.structs.replace(event, request=request)


@given(st.text())
def test_isolating_changes_nothing_but_what_turns_text_around(text: str) -> None:
    shown = isolated(text)

    assert str(escape(shown)).replace("<bdi>", "").replace("</bdi>", "") == str(escape(turned_to_words(text)))
    assert str(shown).count("<bdi>") == str(shown).count("</bdi>")
    assert not TURNING.search(shown)


def test_no_character_from_right_to_left_stands_outside_of_its_isolate() -> None:
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        if unicodedata.bidirectional(character) in (
            "R",
            "AL",
            "AN",
            "RLE",
            "RLO",
            "RLI",
            "LRE",
            "LRO",
            "LRI",
            "FSI",
            "PDF",
            "PDI",
        ):
            shown = isolated(f"a {character} b")
            assert shown in (f"a <bdi>{character}</bdi> b", f"a \\u{number:04x} b"), hex(number)
