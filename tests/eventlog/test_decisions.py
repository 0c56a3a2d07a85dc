"""Decisions with the state they were made on."""

from pathlib import Path

import pytest
from worlds.logs import EPOCH, PICKER, POOL, SMALL, some, write

from pointsman.core.events import (
    Class,
    EntriesAdopted,
    Origin,
    PickerStarted,
    RequestFacts,
    RequestRefused,
    RequestRouted,
)
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.eventlog import decisions as module
from pointsman.eventlog.decisions import decisions
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.sqlite.segments import segment_paths


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("decisions") / "log"
    write(found, some(3000, seed=3), SMALL)
    return found


@pytest.mark.parametrize("window", [100_000, 37])
def test_each_decision_comes_once_with_the_state_at_its_applied(
    directory: Path, window: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WINDOW_DECISIONS", window)
    seen: list[int] = []
    with open_reader(directory) as reader, open_reader(directory) as other:
        wanted = [
            entry.position
            for entry in reader.entries(1, None, (Class.TRAFFIC,))
            if isinstance(entry.event, RequestRouted | RequestRefused)
        ]
        for count, decided in enumerate(decisions(reader, 1)):
            assert decided.state is not None
            assert decided.state.position == decided.event.origin.applied
            assert decided.entry.event == decided.event
            if count % 23 == 0:
                assert encode_snapshot(decided.state) == encode_snapshot(other.state_at(decided.event.origin.applied))
            seen.append(decided.entry.position)

    assert sorted(seen) == wanted
    assert len(wanted) > 300


def test_a_range_gives_the_decisions_recorded_in_it(directory: Path) -> None:
    with open_reader(directory) as reader:
        everything = {decided.entry.position for decided in decisions(reader, 1)}
        some_of_them = {decided.entry.position for decided in decisions(reader, 1000, 2000)}

    assert some_of_them == {position for position in everything if 1000 <= position <= 2000}


def routed(n: int, applied: int, epoch: int = EPOCH) -> RequestRouted:
    return RequestRouted(Origin(PICKER, epoch, n, applied), 1.0, RequestFacts(f"r{n}", POOL), (1,))


def test_what_cannot_be_computed_again_says_why(tmp_path: Path) -> None:
    other = EPOCH + 1
    write(
        tmp_path,
        [
            PickerStarted(Origin(PICKER, EPOCH, 1, 1), "test", 1, {}),
            routed(2, 1),
            routed(3, 900),
            EntriesAdopted(PICKER, other, 1, 5, "another log"),
            routed(5, 2, other),
            routed(6, 2, other),
            routed(4, 2),
        ],
    )

    with open_reader(tmp_path) as reader:
        found = {decided.entry.position: (decided.cause, decided.state is None) for decided in decisions(reader, 1)}

    assert found == {3: ("", False), 4: ("not-before", True), 6: ("adopted", True), 7: ("", False), 8: ("", False)}


def test_a_decision_on_a_state_that_is_not_kept_says_so(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    paths = segment_paths(tmp_path)
    paths[0].unlink()

    with open_reader(tmp_path) as reader:
        first = reader.first()
        found = list(decisions(reader, 1))
        kept = [(one.event.origin.applied, one.cause) for one in found]

    assert all(cause == ("not-kept" if applied < first - 1 else "") for applied, cause in kept)
    assert {cause for _, cause in kept} == {"", "not-kept"}
