"""The JSON twin of the form that moves a weight: the same change, the same refusals, in a program's words."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from worlds.console_world import NEW, OLD, ROUTE, Answer, Running, events_of, running

from pointsman.core.events import RouteObserved, WeightsIntended, WeightsWritten

TWIN = f"/api/v1/routes/{ROUTE}/rules/0/weights"
KEYS = {pool: f"inference.networking.k8s.io/InferencePool/{pool}" for pool in (OLD, NEW)}


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 3) as found:
        yield found


class Program:
    """A program that has asked for the JSON of the form."""

    def __init__(self, console: Running) -> None:
        self.console = console
        found = console.ask(TWIN)
        self.form = found.json
        self.headers = {
            "Content-Type": "application/json",
            "Cookie": found.headers["set-cookie"].partition(";")[0],
        }

    def send(self, weights: Mapping[str, object], more: Mapping[str, object]) -> Answer:
        """Send these weights, with other fields changed."""
        body = {
            "token": self.form["token"],
            "version": self.form["version"],
            "weights": {KEYS.get(k, k): v for k, v in weights.items()},
            "reason": "by a program",
        } | dict(more)
        return self.console.ask(TWIN, "POST", json.dumps(body), self.headers)


def test_the_twin_makes_the_same_change_and_says_what_was_before(console: Running) -> None:
    answer = Program(console).send({OLD: 50, NEW: 50}, {})
    intent, seen, end = events_of(console.world.appender)[-3:]

    assert answer.status == 200
    assert isinstance(intent, WeightsIntended)
    assert isinstance(seen, RouteObserved)
    assert end == WeightsWritten(intent.change, seen.version)
    assert answer.json["outcome"] == "done"
    assert (answer.json["change"], answer.json["version"]) == (intent.change, seen.version)
    assert [(b["pool"], b["before"], b["after"]) for b in answer.json["backends"]] == [(OLD, 90, 50), (NEW, 10, 50)]
    assert intent.reason == "by a program"


@pytest.mark.parametrize(
    ("weights", "more", "status", "code"),
    [
        ({OLD: 0, NEW: 0}, {}, 422, "no-weight-left"),
        ({OLD: 90}, {}, 422, "unchanged"),
        ({OLD: -1}, {}, 422, "weight-range"),
        ({OLD: 50}, {"reason": "x"}, 422, "reason"),
        ({OLD: 50}, {"reason": "\u202e evil"}, 422, "reason"),
        ({OLD: 50}, {"version": "v0"}, 409, "stale"),
        ({"core/Service/default/other": 5}, {}, 409, "backend-unknown"),
    ],
)
def test_the_twin_refuses_with_a_code(
    console: Running, weights: dict[str, object], more: dict[str, object], status: int, code: str
) -> None:
    head = console.world.appender.log.head.position
    answer = Program(console).send(weights, more)

    assert answer.status == answer.json["status"] == status
    assert (answer.json["outcome"], answer.json["code"]) == ("refused", code)
    assert answer.json["error"] == f"{answer.json['found']}, wanted {answer.json['wanted']}"
    assert console.world.appender.log.head.position == head


@pytest.mark.parametrize(
    "more",
    [
        {"weights": {"x": "5"}},
        {"weights": {"x": 1.5}},
        {"weights": {"x": 10**400}},
        {"weights": []},
        {"reason": None},
        {"confirmed": "yes"},
        {"token": 5},
    ],
)
def test_a_body_that_is_no_change_is_answered_in_words(console: Running, more: dict[str, object]) -> None:
    answer = Program(console).send({}, more)

    assert answer.status == 400
    assert "the body is not what a change of weights has" in answer.json["error"]


@pytest.mark.parametrize("body", [b"", b"[", b"\xff\xfe", b'{"reason": "\\ud800"}', b"[" * 60_000])
def test_any_body_is_answered(console: Running, body: bytes) -> None:
    program = Program(console)

    assert console.ask(TWIN, "POST", body, program.headers).status == 400


def test_the_twin_of_what_is_not_there_is_not_found(console: Running) -> None:
    program = Program(console)
    body = json.dumps({"token": program.form["token"], "version": "v1", "weights": {}, "reason": "why not"})

    for path in ("/api/v1/routes/default/none/rules/0/weights", TWIN.replace("/0/", "/7/")):
        assert console.ask(path, "POST", body, program.headers).status == 404
