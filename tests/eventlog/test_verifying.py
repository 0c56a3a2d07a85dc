"""Decisions with the state they were made on, and what came of computing them again."""

from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec
import pytest
from worlds.decisions import adopting_log, asked, decided, state_at
from worlds.logs import EPOCH, PICKER, POOL, SMALL, some, write
from worlds.strategies import Readings, pool_of, started

from pointsman.core.config.parse import DEFAULT_CONFIG
from pointsman.core.deciding.verdict import Verdict, VerdictKind
from pointsman.core.events import (
    Class,
    ConfigAccepted,
    EntriesAdopted,
    Entry,
    Event,
    Origin,
    PickerStarted,
    RequestFacts,
    RequestRefused,
    RequestRouted,
)
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import encode_snapshot
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.sqlite.reader import SegmentLogReader
from pointsman.eventlog.sqlite.segments import segment_paths
from pointsman.eventlog.verifying import walk as module
from pointsman.eventlog.verifying.verifier import Verifier
from pointsman.eventlog.verifying.walk import Decided, DecisionWalk, Fold


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
        for count, decided in enumerate(DecisionWalk(reader).decisions(1)):
            assert isinstance(decided.state, ClusterState)
            assert decided.state.position == decided.event.origin.applied
            assert decided.entry.event == decided.event
            if count % 23 == 0:
                assert encode_snapshot(decided.state) == encode_snapshot(other.state_at(decided.event.origin.applied))
            seen.append(decided.entry.position)

    assert sorted(seen) == wanted
    assert len(wanted) > 300


def test_a_range_gives_the_decisions_recorded_in_it(directory: Path) -> None:
    with open_reader(directory) as reader:
        everything = {decided.entry.position for decided in DecisionWalk(reader).decisions(1)}
        some_of_them = {decided.entry.position for decided in DecisionWalk(reader).decisions(1000, 2000)}

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
        walk = DecisionWalk(reader)
        found = {decided.entry.position: kind(decided) for decided in walk.decisions(1)}

    assert found == {3: None, 4: VerdictKind.DIFFERS, 6: VerdictKind.OTHER_LOG, 7: None, 8: None}


def kind(decided: Decided) -> VerdictKind | None:
    """Why there is no state."""
    return decided.state.kind if isinstance(decided.state, Verdict) else None


def test_a_decision_on_a_state_that_is_not_kept_says_so(tmp_path: Path) -> None:
    write(tmp_path, some(3000), SMALL)
    paths = segment_paths(tmp_path)
    paths[0].unlink()

    with open_reader(tmp_path) as reader:
        first = reader.first()
        kept = [(one.event.origin.applied, kind(one)) for one in DecisionWalk(reader).decisions(1)]

    assert all(why == (VerdictKind.NOT_KEPT if applied < first - 1 else None) for applied, why in kept)
    assert {why for _, why in kept} == {None, VerdictKind.NOT_KEPT}


def test_a_state_far_on_is_folded_from_the_snapshot_before_it(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FOLD_MAX", 100)
    with Counting(directory) as reader, open_reader(directory) as other:
        fold = Fold(reader)
        for position in (200, 250, 2600, 2650, 300):
            state = fold.to(position)

            assert state is not None
            assert encode_snapshot(state) == encode_snapshot(other.state_at(position))

        assert reader.read_from[-1] <= 300
        assert max(reader.read_from) > 1500  # nobody read what lies between


class Counting(SegmentLogReader):
    """A reader that tells where entries were read from."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.read_from: list[int] = []

    def entries(self, first: int, last: int | None = None, classes: Collection[int] | None = None) -> Iterator[Entry]:
        self.read_from.append(first)
        return super().entries(first, last, classes)


def test_runs_that_follow_each_other_and_one_over_all_say_the_same(directory: Path) -> None:
    with open_reader(directory) as reader:
        whole = {found.position: found.verdict for found in Verifier(reader).run(1)}
        verifier, parts = Verifier(reader), dict[int, Verdict]()
        while verifier.done_to < 3001:
            parts |= {f.position: f.verdict for f in verifier.run(verifier.done_to + 1, verifier.done_to + 700)}

    assert parts == whole
    assert len(whole) > 300


def test_the_newest_are_the_last_recorded(directory: Path) -> None:
    with open_reader(directory) as reader:
        everything = sorted(found.position for found in Verifier(reader).run(1))
        verifier = Verifier(reader)
        newest = sorted(found.position for found in verifier.newest(20, 1))

        assert newest == everything[-20:]
        assert verifier.done_to == reader.head().position


def test_only_what_was_made_on_another_log_is_left_out(tmp_path: Path) -> None:
    positions = adopting_log(tmp_path)

    with open_reader(tmp_path) as reader:
        verdicts = {found.position: found.verdict.kind for found in Verifier(reader).run(1)}
        each = {position: found.verdict.kind for position in verdicts if (found := Verifier(reader).at(position))}

    assert verdicts == {
        **dict.fromkeys(positions.own, VerdictKind.SAME),
        **dict.fromkeys(positions.adopted, VerdictKind.OTHER_LOG),
    }
    assert each == verdicts


def test_adoption_is_known_where_its_entry_is_not_kept_any_more(tmp_path: Path) -> None:
    one_each = msgspec.structs.replace(SMALL, batch_events=1, segment_bytes=1)
    adopted: list[Event] = [routed(n, 1) for n in (3, 4, 5)]
    write(
        tmp_path,
        [PickerStarted(Origin(PICKER, EPOCH, 2, 1), "test", 1, {}), EntriesAdopted(PICKER, EPOCH, 3, 5, "other")],
    )
    write(tmp_path, adopted, one_each)
    for path in segment_paths(tmp_path)[:-2]:  # the last one may be empty
        path.unlink()

    with open_reader(tmp_path) as reader:
        first = reader.first()
        verdicts = {found.event.origin.n: found.verdict.kind for found in Verifier(reader).run(1)}

    assert first > 3
    assert verdicts
    assert set(verdicts.values()) == {VerdictKind.OTHER_LOG}


def test_a_decision_of_a_build_with_other_plugins_is_told_and_explained_as_far_as_that_goes(tmp_path: Path) -> None:
    unknown = DEFAULT_CONFIG.encode().replace(b'"type":"queue-scorer"', b'"type":"future-scorer"')
    write(tmp_path, [started(queue_scorer=2), *pool_of([3, 1])])
    write(tmp_path, [decided(state_at(tmp_path), Readings(), asked(2), 2)])
    write(tmp_path, [ConfigAccepted("*", unknown, "test")])
    recorded = decided(state_at(tmp_path, 6), Readings(), asked(3), 3)
    origin = msgspec.structs.replace(recorded.origin, applied=8)
    write(tmp_path, [msgspec.structs.replace(recorded, origin=origin)])

    with open_reader(tmp_path) as reader:
        found = [(one.verdict.kind, one.explanation() is not None) for one in Verifier(reader).run(1)]

    assert found == [(VerdictKind.OTHER_VERSION, True), (VerdictKind.OTHER_VERSION, False)]
