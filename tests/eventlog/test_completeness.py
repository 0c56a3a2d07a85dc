"""Nothing that a picker process wrote can be missing, come twice or stand elsewhere without being found."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings, strategies as st
from worlds.forgery import chain_again
from worlds.logs import EPOCH, PICKER, SMALL, some, write
from worlds.system import pointsman

from pointsman.core.events import (
    Class,
    ClockStepped,
    EntriesAdopted,
    EntriesLost,
    Entry,
    Event,
    Origin,
    PickerEnded,
    PickerStarted,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
    class_of,
    encode,
)
from pointsman.eventlog.opening import open_reader, verify_chain
from pointsman.eventlog.sqlite.segments import connect_writer, segment_paths
from pointsman.eventlog.stores.snapshots import Projection
from pointsman.eventlog.verifying.access_log import compare, read_line
from pointsman.eventlog.verifying.completeness import Completeness, CompletenessReport, check_completeness


def entries_of(events: list[Event]) -> list[Entry]:
    return [Entry(at, 1.7e9 + at, int(class_of(event)), encode(event)) for at, event in enumerate(events, 1)]


def checked(entries: list[Entry]) -> CompletenessReport:
    walk = Completeness(Projection())
    walk.take(entries)
    return walk.finish()


WORLD = entries_of(some(600))
PICKERS = [at for at, entry in enumerate(WORLD) if hasattr(entry.event, "origin")]
"""Indexes of the entries that the picker wrote."""


def test_a_log_that_has_all_of_it_has_no_problem() -> None:
    report = checked(WORLD)

    assert report.problems == 0
    assert (report.entries, report.numbered, report.epochs, report.lost) == (600, len(PICKERS), 1, 0)
    assert report.routed == sum(isinstance(entry.event, RequestRouted) for entry in WORLD)
    ends = sum(isinstance(entry.event, RequestFinished) for entry in WORLD)
    assert report.open == report.routed - ends


# --- every forgery of one entry of a picker is found -----------------------------------------------


def delete(entries: list[Entry], at: int, other: int) -> None:
    del entries[at]


def double(entries: list[Entry], at: int, other: int) -> None:
    entries.insert(at, entries[at])


def swap(entries: list[Entry], at: int, other: int) -> None:
    mine, theirs = entries[at], entries[other]
    entries[at], entries[other] = theirs, mine


def move(entries: list[Entry], at: int, other: int) -> None:
    entries.insert(other, entries.pop(at))


def renumber(entries: list[Entry], at: int, other: int) -> None:
    event = entries[at].event
    origin: Origin = event.origin  # type: ignore[union-attr]  # it is one of a picker's
    changed = msgspec.structs.replace(event, origin=msgspec.structs.replace(origin, n=origin.n + 1))
    entries[at] = msgspec.structs.replace(entries[at], body=encode(changed))


def of_another_epoch(entries: list[Entry], at: int, other: int) -> None:
    event = entries[at].event
    origin: Origin = event.origin  # type: ignore[union-attr]  # it is one of a picker's
    changed = msgspec.structs.replace(event, origin=msgspec.structs.replace(origin, epoch=origin.epoch + 1))
    entries[at] = msgspec.structs.replace(entries[at], body=encode(changed))


def of_another_class(entries: list[Entry], at: int, other: int) -> None:
    entries[at] = msgspec.structs.replace(entries[at], kind=entries[at].kind % 4 + 1)


def cut(entries: list[Entry], at: int, other: int) -> None:
    entries[at] = msgspec.structs.replace(entries[at], body=entries[at].body[:-1])


def unknown(entries: list[Entry], at: int, other: int) -> None:
    entries[at] = msgspec.structs.replace(entries[at], body=msgspec.msgpack.encode(["request-moved", 1]))


FORGERIES = (delete, double, swap, move, renumber, of_another_epoch, of_another_class, cut, unknown)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORGERIES), st.sampled_from(PICKERS[:-1]), st.sampled_from(PICKERS[:-1]))
def test_whatever_is_done_to_an_entry_of_a_picker_is_found(
    forgery: Callable[[list[Entry], int, int], None], at: int, other: int
) -> None:
    entries = list(WORLD)
    forgery(entries, at, other)
    if entries == WORLD:
        return  # it was put where it was

    assert checked(entries).problems > 0


def test_the_newest_entries_alone_can_be_taken_away_unseen_and_an_earlier_head_shows_it() -> None:
    assert checked(WORLD[:-5]).problems == 0


def test_a_decision_that_became_a_refusal_is_found_by_what_followed_it() -> None:
    entries = list(WORLD)
    ended = {e.event.request_n for e in WORLD if isinstance(e.event, RequestFinished)}
    at = next(i for i in PICKERS if isinstance(e := WORLD[i].event, RequestRouted) and e.origin.n in ended)
    event = entries[at].event
    assert isinstance(event, RequestRouted)
    refused = RequestRefused(event.origin, event.decided_at, event.request, "bad-request", 400)
    entries[at] = msgspec.structs.replace(entries[at], body=encode(refused))

    assert checked(entries).problems > 0


# --- what is told is no problem --------------------------------------------------------------------


def life(n: int, epoch: int = EPOCH) -> Origin:
    return Origin(PICKER, epoch, n, 1)


def routed(n: int, epoch: int = EPOCH) -> RequestRouted:
    return RequestRouted(life(n, epoch), 1.0, RequestFacts(f"r{n}", "p"), (1,))


def finished(n: int, of: int, epoch: int = EPOCH) -> RequestFinished:
    return RequestFinished(life(n, epoch), of, "complete", 200, 0.1)


def started(epoch: int = EPOCH) -> PickerStarted:
    return PickerStarted(life(1, epoch), "b", 1, {})


@pytest.mark.parametrize(
    ("events", "problems"),
    [
        ([started(), EntriesLost(PICKER, EPOCH, 2, 4), finished(5, 3)], 0),
        ([started(), finished(5, 3)], 1),  # the gap; its consequences are not told again
        ([started(), routed(2), EntriesLost(PICKER, EPOCH, 3, 4), PickerEnded(PICKER, EPOCH, "killed", 4)], 0),
        ([started(), routed(2), PickerEnded(PICKER, EPOCH, "killed", 4)], 1),
        ([started(), routed(2), PickerEnded(PICKER, EPOCH, "killed", 2)], 0),
        ([started(), routed(2), EntriesLost(PICKER, EPOCH, 2, 4)], 1),
        ([started(), EntriesLost(PICKER, EPOCH, 3, 4)], 1),
        ([started(), routed(2), PickerEnded(PICKER, EPOCH, "k", 2), PickerEnded(PICKER, EPOCH, "k", 2)], 1),
        ([started(), routed(2), finished(3, 2), finished(4, 2)], 1),
        ([started(), routed(2), started(7)], 1),
        ([started(), routed(2), finished(3, 2), started(7)], 0),
        ([EntriesAdopted(PICKER, EPOCH, 40, 41, "other"), routed(40), finished(41, 40)], 0),
        ([routed(40)], 1),
        ([EntriesLost(PICKER, EPOCH, 1, 9), PickerEnded(PICKER, EPOCH, "killed", 9)], 0),
    ],
)
def test_losses_that_are_told_are_no_problem_and_others_are(events: list[Event], problems: int) -> None:
    assert checked(entries_of(events)).problems == problems


def test_a_log_whose_beginning_was_dropped_is_complete_from_there_on(tmp_path: Path) -> None:
    write(tmp_path, some(4000), SMALL)
    segment_paths(tmp_path)[0].unlink()

    with open_reader(tmp_path) as reader:
        report = check_completeness(reader)

    assert report.problems == 0
    assert report.numbered > 1000


# --- the commands -----------------------------------------------------------------------------------


def test_an_entry_that_somebody_took_out_and_then_computed_the_chain_anew_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write(log, some(400))
    [path] = segment_paths(log)
    with open_reader(log) as reader:
        picked = [e for e in reader.entries(1) if e.kind == Class.TRAFFIC and isinstance(e.event, RequestFinished)]
    gone = picked[len(picked) // 2].position
    filler = encode(ClockStepped(1.0))
    with connect_writer(path) as connection:
        connection.exec_driver_sql("UPDATE entries SET kind = 1, body = ? WHERE position = ?", (filler, gone))
        connection.exec_driver_sql("DELETE FROM snapshots WHERE position > 0")
    chain_again(log, path)
    assert verify_chain(log).sound

    found = pointsman("audit", tmp_path, "--output", "json")
    report = json.loads(found.stdout)

    assert found.returncode == 1
    assert report["complete"]["problems"] == 1
    assert "missing" in report["complete"]["listed"][0]["problem"]
    assert report["verdict"].startswith("NOT SOUND AND COMPLETE")


def test_a_log_that_is_damaged_is_audited_to_one_sentence_and_a_code(tmp_path: Path) -> None:
    write(tmp_path / "log", some(400))
    with connect_writer(segment_paths(tmp_path / "log")[0]) as connection:
        connection.exec_driver_sql("UPDATE entries SET body = x'90' WHERE position = 200")

    found = pointsman("audit", tmp_path)

    assert found.returncode == 1
    assert found.stdout.splitlines()[-1].startswith("NOT SOUND: log ")
    assert found.stderr == ""


# --- an access log ----------------------------------------------------------------------------------

TEXT = (
    '[2026-11-30T10:00:00.000Z] "POST /v1/chat/completions HTTP/1.1" 200 - 10 20 5 4 "-" "curl/8" '
    '"{}" "models.example" "{}"'
)


@pytest.mark.parametrize(
    ("line", "request_id", "server"),
    [
        ('{"request_id": "a", "endpoint": "10.0.0.1:8000", "time": "17.5"}', "a", "10.0.0.1:8000"),
        ('{"x-request-id": "a", "upstream_host": "10.0.0.1:8000"}', "a", "10.0.0.1:8000"),
        ('{"request": {"x-request-id": "a"}, "response": {"upstream_host": null}}', "a", ""),
        (TEXT.format("a", "10.0.0.1:8000"), "a", "10.0.0.1:8000"),
        (TEXT.format("a", "-"), "a", ""),
    ],
)
def test_lines_of_access_logs_are_read(line: str, request_id: str, server: str) -> None:
    found = read_line(line)

    assert found is not None
    assert (found.request_id, found.server) == (request_id, server)


@pytest.mark.parametrize("line", ["", "{", "[1]", "null", '{"status": 200}', TEXT.format("-", "-"), "some words"])
def test_lines_without_a_request_are_told_apart(line: str) -> None:
    assert read_line(line) is None


@given(st.text(max_size=200))
def test_no_line_breaks_the_reading(line: str) -> None:
    read_line(line)


def test_each_request_that_only_one_side_knows_is_named(tmp_path: Path) -> None:
    write(tmp_path, some(800))
    with open_reader(tmp_path) as reader:
        events = [(entry.recorded_at, entry.event) for entry in reader.entries(1)]
        asked = {
            event.request.request_id: reader.state_at(position).endpoints[event.endpoints[0]].authority
            for position, (_, event) in enumerate(events, 1)
            if isinstance(event, RequestRouted)
        }
        lines = [json.dumps({"request_id": name, "endpoint": server}) for name, server in asked.items()]
        complete = compare(reader, lines)
        random.Random(1).shuffle(lines)
        missing = json.loads(lines.pop())["request_id"]
        elsewhere = json.loads(lines[0])
        found = compare(
            reader,
            [
                *lines[1:],
                json.dumps({**elsewhere, "endpoint": "192.0.2.1:1"}),
                json.dumps({"request_id": "stranger", "endpoint": "10.0.0.1:8000"}),
                "not a line",
            ],
        )
        ended = {e.request_n for _, e in events if isinstance(e, RequestFinished) and e.status == 200}
        names = {e.request.request_id for _, e in events if isinstance(e, RequestRouted) and e.origin.n in ended}

    assert (complete.served, complete.without_decision, complete.without_line, complete.elsewhere) == (
        len(asked),
        0,
        0,
        0,
    )
    assert found.undecided == ["stranger"]
    assert found.unserved == ([missing] if missing in names else [])
    assert (found.elsewhere, found.unread) == (1, 1)
