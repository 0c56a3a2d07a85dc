"""The read model goes by the times at which things happened, in whatever order they were recorded."""

import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings, strategies as st
from worlds.logs import EPOCH, PICKER, POOL, SMALL, dump, fold, write

from pointsman.core.events import (
    Event,
    LoadSampled,
    Origin,
    RequestFacts,
    RequestFinished,
    RequestRefused,
    RequestRouted,
)
from pointsman.core.values.packing import pack
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import Filters


def routed(n: int, at: float) -> RequestRouted:
    return RequestRouted(Origin(PICKER, EPOCH, n, 1), at, RequestFacts(f"r{n}", POOL), (1,))


def refused(n: int, at: float) -> RequestRefused:
    return RequestRefused(Origin(PICKER, EPOCH, n, 1), at, RequestFacts(f"r{n}", POOL), "saturated", 429)


def finished(n: int, of: int, duration: float) -> RequestFinished:
    return RequestFinished(Origin(PICKER, EPOCH, n, 1), of, "complete", 200, duration, duration / 2)


def test_what_a_standstill_held_back_is_counted_and_found_where_it_happened(tmp_path: Path) -> None:
    """The control process stands still for a minute while decisions go on, one a second; then all are recorded at once."""
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    begun = float(int(time.time()) // 10 * 10 - 120)
    sample = LoadSampled(pack(np.array([])), time.time(), b"", pack(np.array([])), pack(np.array([])), b"")
    events: list[Event] = [sample]  # what the new control process says first is of now
    for second in range(60):
        events += [routed(2 * second + 2, begun + second), finished(2 * second + 3, 2 * second + 2, 2.0)]
    write(log, events, SMALL)
    fold(path, log)

    with open_read_model(path) as model:
        spans = model.rollups(POOL, begun, begun + 70)
        assert [(span.start - begun, span.routed, span.finished) for span in spans] == [
            (0, 10, 8),
            (10, 10, 10),
            (20, 10, 10),
            (30, 10, 10),
            (40, 10, 10),
            (50, 10, 10),
            (60, 0, 2),
        ]
        found = model.decisions(Filters(since=begun + 25, until=begun + 35)).rows
        assert [row.decided_at for row in found] == [begun + 34 - i for i in range(10)]
        assert model.decisions(Filters(since=begun + 61)).rows == []
        assert model.counts_since(begun + 57.5) == {POOL: 2}


@given(
    st.lists(st.tuples(st.floats(0.0, 300.0), st.booleans(), st.floats(0.0, 50.0)), min_size=1, max_size=60),
    st.floats(-20.0, 320.0),
    st.floats(-20.0, 320.0),
    st.sets(st.integers(0, 60), max_size=4),
)
@settings(max_examples=60, deadline=None)
def test_in_whatever_order_decisions_are_recorded_times_are_those_of_the_decisions(
    decisions: list[tuple[float, bool, float]], one: float, other: float, cuts: set[int]
) -> None:
    now = time.time()
    events: list[Event] = []
    times: dict[str, float] = {}
    for index, (ago, is_refused, duration) in enumerate(decisions):
        n = 2 * index + 2
        times[f"r{n}"] = now - ago
        events.append(refused(n, now - ago) if is_refused else routed(n, now - ago))
        if not is_refused and index % 3:
            events.append(finished(n + 1, n, duration))
    since, until = sorted((now - one, now - other))
    with TemporaryDirectory() as home:
        log, path = Path(home) / "log", Path(home) / "readmodel.db"
        start = 0
        for end in [*sorted(cuts), len(events)]:
            if events[start:end]:
                write(log, events[start:end])
                fold(path, log)
            start = max(start, end)
        with open_read_model(path) as model:
            spans = model.rollups(POOL, 0.0, 9e9)
            found = {row.request_id for row in model.decisions(Filters(since=since, until=until), limit=500).rows}
            counted = model.counts_since(since).get(POOL, 0)
        pieces = dump(path)
        path.unlink()
        fold(path, log)

        assert dump(path) == pieces
    per_span = Counter(int(at // 10) * 10 for at in times.values())
    assert {s.start: s.routed + s.refused_count for s in spans if s.routed + s.refused_count} == per_span
    assert found == {name for name, at in times.items() if since <= at < until}
    assert counted == sum(at >= since for at in times.values())


def test_nothing_happens_after_it_was_recorded(tmp_path: Path) -> None:
    log, path = tmp_path / "log", tmp_path / "readmodel.db"
    write(log, [routed(2, time.time() + 1e6), refused(3, time.time() - 1.0)])
    fold(path, log)

    with open_read_model(path) as model:
        assert {row.request_id for row in model.decisions(Filters(until=time.time() + 1)).rows} == {"r2", "r3"}
