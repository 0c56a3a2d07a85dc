"""What the console's twins answer is for programs: numbers are numbers, and fields have names."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds.console_world import OLD, ROUTE, Running, running
from worlds.decisions import adopting_log
from worlds.logs import write
from worlds.system import pointsman

from pointsman.core.events import Origin, RequestFacts, RequestRefused
from pointsman.web.app import PAGES

NUMBER = re.compile(
    r"[-+~#<>]?\s?\d[\d,]*(\.\d+)?(\s?(%( ± .*)?|[µmk]?s( old)?|min|h|days?|bytes|[kMG]i?B|/s|x|blocks?|pools?))?"
)
"""A number that somebody wrote for people: with thousands' commas, or a unit."""
TEXT = frozenset(("epoch", "version", "build", "request_id", "name", "model", "id", "digest"))
"""Keys of what is text although it may look like a number: names, and digits that are no quantity."""


def written_numbers(value: object, path: str = "") -> Iterator[str]:
    """The places at which a number stands in a string."""
    match value:
        case dict():
            for key, one in value.items():
                if key not in TEXT:
                    yield from written_numbers(one, f"{path}.{key}")
        case list():
            for index, one in enumerate(value):
                yield from written_numbers(one, f"{path}[{index}]")
        case str() if NUMBER.fullmatch(value):
            yield f"{path} is {value!r}"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("twins")) as found:
        yield found


def addresses(console: Running) -> dict[str, str]:
    """An address of each page that a GET shows."""
    position = console.request()
    fields = {"<number:position>": str(position), "<number:rule>": "0", "<path:request_id>": "nobody"}
    found = {}
    for path, method, _ in PAGES:
        if method == "GET":
            names = ROUTE if path.startswith("/routes") else OLD
            told = path.replace("<namespace>/<name>", names)
            for field, value in fields.items():
                told = told.replace(field, value)
            found[path] = told
    return found


def test_no_twin_has_a_number_in_a_string(console: Running) -> None:
    wrong = []
    for path, address in addresses(console).items():
        if path.startswith("/requests"):  # it has no data of its own
            continue
        reply = console.ask("/api/v1" + address.rstrip("/"))
        assert reply.status == 200, address
        wrong += [f"{address}: {found}" for found in written_numbers(reply.json)]

    assert wrong == []


@pytest.mark.parametrize(
    "text", ["3", "1,234", "20 %", "474 ms", "7.0", "2.5x", "90.4 % ± 3.1", "110 ms old", "6 pools"]
)
def test_numbers_for_people_are_seen(text: str) -> None:
    assert list(written_numbers({"a": [{"b": text}]})) == [f".a[0].b is {text!r}"]


def test_entries_have_the_names_of_their_fields_and_no_packed_columns(console: Running) -> None:
    [decision] = console.ask("/api/v1/log?type=request-routed").json["entries"][:1]
    [sampled] = console.ask("/api/v1/log?type=load-sampled").json["entries"][:1]

    assert decision["request"]["pool"]
    assert decision["origin"]["picker"] == "picker-0"
    assert isinstance(decision["took_microseconds"], int)
    assert len(sampled["endpoints"]) == len(sampled["waiting"]) == len(sampled["kv_cache_share"])
    assert re.fullmatch(r"20\d\d-.*Z", sampled["sampled_at"])


@pytest.mark.parametrize(
    "words",
    [
        ("replay", "explain", "r7", "--data-dir"),
        ("replay", "verify", "--data-dir"),
        ("log", "tail", "--lines", "1", "--data-dir"),
        ("log", "verify"),
        ("log", "retain"),
        ("audit",),
    ],
)
def test_commands_print_one_document_without_a_number_in_a_string(tmp_path: Path, words: tuple[str, ...]) -> None:
    adopting_log(tmp_path / "log")

    found = pointsman(*words, tmp_path, "--output", "json")

    assert list(written_numbers(json.loads(found.stdout))) == []


def test_every_entry_that_is_tailed_has_named_fields(tmp_path: Path) -> None:
    adopting_log(tmp_path / "log")

    lines = pointsman("log", "tail", "--from", "1", "--output", "json", "--data-dir", tmp_path).stdout.splitlines()

    assert len(lines) > 10
    for line in map(json.loads, lines):
        assert list(written_numbers(line)) == []
        assert not any(isinstance(value, list) and value and isinstance(value[0], list) for value in line.values())


def test_an_id_of_several_requests_is_one_document(tmp_path: Path) -> None:
    facts = RequestFacts("again", "default/pool", "llama")
    write(tmp_path / "log", [RequestRefused(Origin("p", 1, n, 1), 1.7e9, facts, "no-endpoints", 503) for n in (1, 2)])

    found = pointsman("replay", "explain", "again", "--data-dir", tmp_path, "--output", "json")

    told = json.loads(found.stdout)
    assert told["request_id"] == "again"
    assert [d["decision"]["origin"]["n"] for d in told["decisions"]] == [1, 2]
