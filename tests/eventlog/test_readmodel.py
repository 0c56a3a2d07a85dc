"""The read model says what the log says."""

import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import pytest
import trio
from hypothesis import given, settings, strategies as st
from worlds.logs import EPOCH, PICKER, POOL, SMALL, dump, fold, some, with_appender, write

from pointsman.core.events import (
    Class,
    Event,
    LoadSampled,
    OpenRequestsListed,
    Origin,
    PickerEnded,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
)
from pointsman.core.values.packing import pack
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import ReadModelUnavailableError
from pointsman.eventlog.opening import DEFAULT_LIMITS, open_reader
from pointsman.eventlog.readmodel.folding import ReadModelWriter, follow_log
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import Filters, ReadModel
from pointsman.eventlog.readmodel.sqlite.tables import STRETCH
from pointsman.eventlog.sqlite.segments import segment_paths
from pointsman.eventlog.stores.writing import Commit

EVENTS = some(3000, seed=5)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReadModel:
    directory = tmp_path_factory.mktemp("model")
    write(directory / "log", EVENTS, SMALL)
    fold(directory / "readmodel.db", directory / "log")
    return open_read_model(directory / "readmodel.db")


@pytest.fixture(scope="module")
def long_model(tmp_path_factory: pytest.TempPathFactory) -> ReadModel:
    """Of several stretches, where a model and an endpoint occur in some."""
    directory = tmp_path_factory.mktemp("long")
    events = some((3 << STRETCH) + 1000, seed=6)
    there = range(1 << STRETCH, 2 << STRETCH)
    rare = [
        msgspec.structs.replace(event, request=msgspec.structs.replace(event.request, model="adapter"))
        if isinstance(event, RequestRouted) and position in there
        else event
        for position, event in enumerate(events, 2)
    ]
    write(directory / "log", rare, DEFAULT_LIMITS)
    fold(directory / "readmodel.db", directory / "log")
    return open_read_model(directory / "readmodel.db")


def test_a_request_is_found_by_its_id_with_its_outcome(model: ReadModel) -> None:
    ends = {event.request_n: event for event in EVENTS if isinstance(event, RequestFinished)}
    checked = 0
    for position, event in enumerate(EVENTS, 2):
        if not isinstance(event, RequestRouted | RequestRefused):
            continue
        [row] = model.requests(event.request.request_id)
        assert model.find_request(event.request.request_id) == [position]
        assert (row.position, row.model, row.origin.applied) == (position, event.request.model, event.origin.applied)
        if isinstance(event, RequestRefused):
            assert (row.reason, row.status, row.endpoint) == ("saturated", 429, None)
        elif (end := ends.get(event.origin.n)) is not None:
            assert (row.endpoint, row.status, row.cause) == (event.endpoints[0], end.status, end.cause)
            assert (row.duration, row.completion_tokens) == (end.duration, end.completion_tokens)
            assert row.finished is not None
            assert EVENTS[row.finished - 2] == end
        else:
            assert (row.status, row.finished, row.cause) == (None, None, "")
        checked += 1
        if checked > 200:
            return


def test_an_id_is_found_in_every_stretch_of_the_log_the_newest_first(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    again = [2, 3, (1 << STRETCH) - 1, 1 << STRETCH, (1 << STRETCH) + 1, 3 << STRETCH]
    named = dict.fromkeys(again, "again")
    events: list[Event] = [
        RequestRouted(Origin(PICKER, EPOCH, n, 1), 1.0, RequestFacts(named.get(n, f"r{n}"), POOL), (1,))
        for n in range(2, (3 << STRETCH) + 9)
    ]
    write(log, events)
    fold(path, log)

    with open_read_model(path) as model:
        assert model.find_request("again") == again[::-1]
        assert [row.origin.n for row in model.requests("r4")] == [4]
        assert model.find_request("nobody") == []


@pytest.mark.parametrize(
    "filters",
    [
        Filters(),
        Filters(pool=POOL, model="llama"),
        Filters(model="adapter"),
        Filters(model="adapter", endpoint="pod-64", status=200),
        Filters(model="nobody"),
        Filters(status=200),
        Filters(status=503),
        Filters(status=503, model="adapter"),
        Filters(reason="*"),
        Filters(reason="saturated", model="qwen"),
        Filters(endpoint="pod-2"),
        Filters(endpoint="pod-30"),
        Filters(endpoint="pod-30", model="qwen"),
        Filters(endpoint="pod-30:8000"),
        Filters(endpoint="pod-30:1"),
        Filters(since=0.0, until=9e9),
        Filters(since=9e9),
        Filters(until=1.0),
    ],
)
def test_paging_by_cursor_meets_every_decision_once_both_ways(long_model: ReadModel, filters: Filters) -> None:
    model = long_model
    page = model.decisions(Filters(), limit=500)
    everything = list(reversed(page.rows))
    while page.older is not None:
        page = model.decisions(Filters(), before=page.older, limit=500)
        everything = list(reversed(page.rows)) + everything
    numbers = {row.number for row in model.endpoints() if filters.endpoint in (row.name, row.full_name)}
    wanted = [
        row.position
        for row in everything
        if (filters.model is None or row.model == filters.model)
        and (filters.status is None or row.status == filters.status)
        and (filters.reason is None or (row.reason if filters.reason == "*" else row.reason == filters.reason))
        and (filters.endpoint is None or row.endpoint in numbers)
        and filters.since != 9e9
        and filters.until != 1.0
    ]

    down: list[int] = []
    page = model.decisions(filters, limit=37)
    while True:
        down = [row.position for row in reversed(page.rows)] + down
        if page.older is None:
            break
        page = model.decisions(filters, before=page.older, limit=37)
    up: list[int] = []
    page = model.decisions(filters, after=0, limit=37)
    while page.rows:
        up.extend(row.position for row in reversed(page.rows))
        if page.newer is None:
            break
        page = model.decisions(filters, after=page.newer, limit=37)

    assert down == wanted
    assert up == wanted
    assert len(everything) > 400


def test_the_spans_add_up_to_the_log(model: ReadModel) -> None:
    spans = model.rollups(POOL, 0.0, 9e9)
    kinds = Counter(type(event) for event in EVENTS)
    finished = [event for event in EVENTS if isinstance(event, RequestFinished)]

    assert sum(span.routed for span in spans) == kinds[RequestRouted]
    assert sum(span.refused_count for span in spans) == kinds[RequestRefused]
    assert model.refusals(0.0, 9e9) == {"saturated": kinds[RequestRefused]}
    assert sum(span.finished for span in spans) == len(finished)
    assert sum(span.errors for span in spans) == sum(event.status >= 500 for event in finished)
    assert sum(span.completion_tokens for span in spans) == 7 * len(finished)
    assert sum(span.samples for span in spans) > kinds[LoadSampled]
    assert all(0 <= span.kv_cache_sum <= span.samples for span in spans)
    assert max(span.in_flight_max for span in spans) >= kinds[RequestRouted] - len(finished)
    assert model.rollups(POOL, 9e9, 9e9) == []


def test_folded_in_pieces_or_rebuilt_it_is_the_same(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    for start in range(0, 3000, 500):
        write(log, EVENTS[start : start + 500], SMALL)
        fold(path, log)
    pieces = dump(path)
    path.unlink()
    fold(path, log)

    assert dump(path) == pieces
    with open_read_model(path) as model, open_reader(log) as reader:
        assert model.state().position == reader.head().position == 3001
        assert model.state().log_id == reader.log_id


@given(st.lists(st.sampled_from(["tell", "lose", "fold"]), min_size=30, max_size=120))
@settings(max_examples=25, deadline=None)
def test_told_of_some_commits_or_of_none_it_is_the_same(steps: list[str]) -> None:
    with TemporaryDirectory() as home:
        log, path = Path(home) / "log", Path(home) / "readmodel.db"
        log.mkdir()
        model = ReadModelWriter(path, log)

        async def work(appender: Appender) -> None:
            for at, step in enumerate(steps):
                if step == "fold":
                    await trio.to_thread.run_sync(model.fold)
                    continue
                told = len(commits)
                await appender.append_many(EVENTS[at * 20 : at * 20 + 20])
                for commit in commits[told:] if step == "tell" else ():
                    model.tell(commit)

        commits: list[Commit] = []
        with_appender(log, work, SMALL, commits)
        model.tell(commits[-1])
        while model.behind and model.fold():
            pass
        model.close()
        told = dump(path)
        path.unlink()
        fold(path, log)

        assert dump(path) == told


def test_it_is_built_again_where_the_log_is_another_one(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    write(log, EVENTS[:400], SMALL)
    shutil.copytree(log, tmp_path / "older")
    write(log, EVENTS[400:900], SMALL)
    fold(path, log)
    shutil.rmtree(log)
    shutil.copytree(tmp_path / "older", log)
    write(log, some(1500, seed=5)[400:1500], SMALL)  # goes on differently: other digests at the same positions

    fold(path, log)
    replaced = dump(path)
    path.unlink()
    fold(path, log)
    assert dump(path) == replaced

    shutil.rmtree(log)
    write(log, EVENTS[:100], SMALL)
    fold(path, log)
    with open_read_model(path) as model, open_reader(log) as reader:
        assert (model.state().position, model.state().log_id) == (101, reader.log_id)


@pytest.mark.parametrize("damage", ["garbage", "version", "tables", "rows"])
def test_a_file_that_is_not_ours_is_built_again(tmp_path: Path, damage: str) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    write(log, EVENTS[:400], SMALL)
    fold(path, log)
    good = dump(path)
    if damage == "garbage":
        path.write_bytes(b"not a database, surely" * 100)
    else:
        with sqlite3.connect(path) as connection:
            statements = {
                "version": "UPDATE meta SET value = 99 WHERE name = 'version'",
                "tables": "DROP TABLE meta",
                "rows": "UPDATE endpoints SET port = 'x'",
            }
            connection.execute(statements[damage])
        connection.close()

    fold(path, log)

    assert dump(path) == good


def test_a_read_model_that_is_not_there_says_that_it_cannot_answer(tmp_path: Path) -> None:
    with open_read_model(tmp_path / "readmodel.db") as model, pytest.raises(ReadModelUnavailableError):
        model.state()


def test_removed_segments_take_their_decisions_with_them(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    write(log, EVENTS, SMALL)
    fold(path, log)
    for segment in segment_paths(log)[:2]:
        segment.unlink()
    write(log, [PickerEnded(PICKER, EPOCH, "killed", 0)], SMALL)
    fold(path, log)

    with open_reader(log) as reader, open_read_model(path) as model:
        [oldest] = model.decisions(Filters(), after=0, limit=1).rows
        assert oldest.position >= reader.first()
        assert model.decisions(Filters(model=oldest.model), after=0, limit=1).rows == [oldest]

    path.unlink()
    fold(path, log)
    with open_read_model(path) as model:
        assert model.state().position == 3002
        assert len(model.endpoints(POOL)) > 2


def test_what_occurs_in_a_stretch_goes_with_its_decisions(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    write(log, some((1 << STRETCH) + 2000, seed=6), SMALL)
    fold(path, log)
    assert _stretches(path) == {0, 1}

    for segment in segment_paths(log)[:-2]:
        segment.unlink()
    write(log, [PickerEnded(PICKER, EPOCH, "killed", 0)], SMALL)
    fold(path, log)
    assert _stretches(path) == {1}


def _stretches(path: Path) -> set[int]:
    with sqlite3.connect(path) as connection:
        found = {stretch for (stretch,) in connection.execute("SELECT stretch FROM occurring")}
    connection.close()
    return found


def test_a_picker_that_ends_ends_its_requests(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    events: list[Event] = [
        RequestRouted(Origin(PICKER, EPOCH, n, 1), 1.0, RequestFacts(f"r{n}", POOL), (1,)) for n in range(2, 6)
    ]
    listed = OpenRequestsListed(Origin(PICKER, EPOCH, 6, 1), pack(np.array([2, 3])))
    write(log, [*events, listed])
    fold(path, log)
    with open_read_model(path) as model:
        assert [model.requests(f"r{n}")[0].cause for n in range(2, 6)] == ["", "", "lost", "lost"]

    write(log, [PickerEnded(PICKER, EPOCH, "killed", 6)])
    fold(path, log)
    with open_read_model(path) as model:
        assert [model.requests(f"r{n}")[0].cause for n in range(2, 6)] == ["lost"] * 4
        assert model.requests("nobody") == []


@pytest.mark.parametrize("version", [7, 9])
def test_a_read_model_of_another_version_is_built_again(tmp_path: Path, version: int) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    write(log, EVENTS[:400], SMALL)
    fold(path, log)
    good = dump(path)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE refusals")
        connection.execute("ALTER TABLE requests RENAME COLUMN decided_at TO recorded_at")
        connection.execute("UPDATE meta SET value = ? WHERE name = 'version'", (version,))
    connection.close()
    fold(path, log)

    assert dump(path) == good


def test_it_follows_the_log_behind_the_appends(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    log.mkdir()

    async def work(appender: Appender) -> None:
        writer = ReadModelWriter(path, log)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow_log, writer)
            for start in range(0, 2000, 100):
                await appender.append_many(EVENTS[start : start + 100])
            while open_read_model(path).state().position < 2001:
                await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

    with_appender(log, work, SMALL)

    with open_reader(log) as reader, open_read_model(path) as model:
        decided = [entry for entry in reader.entries(1, None, (Class.TRAFFIC,)) if hasattr(entry.event, "request")]
        assert len(model.decisions(Filters(), limit=500).rows) == min(500, len(decided))
