"""What warms the index of a picker that starts: read from a real log, backwards, and sent over real sockets."""

import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import pytest
import trio
from worlds.feed_world import refuse, route
from worlds.hub_world import KEY, Picker, control, run, settled
from worlds.logs import EPOCH, PICKER, SMALL, some, write
from worlds.strategies import ints

from pointsman.core.events import RequestRefused, RequestRouted
from pointsman.core.feed.frames import Cold, Warming, decode_to_picker
from pointsman.core.state.membership import EpochKey
from pointsman.eventlog.feed import warming_pages as warming
from pointsman.eventlog.feed.warming_pages import read_warming
from pointsman.eventlog.opening import open_reader
from pointsman.eventlog.sqlite.segments import segment_paths

SOMEBODY = ("picker-9", 1)
Blocks = dict[tuple[int, str], bytes]


def pieces(directory: Path, after: int = 0, key: EpochKey = SOMEBODY, until: int = 0) -> list[Warming]:
    """All that a cold picker is given."""
    with open_reader(directory) as reader:
        until = until or reader.head().position
    found: list[Warming] = []
    while not found or not found[-1].last:
        piece = decode_to_picker(read_warming(directory, key, Cold(until, after))[4:])
        assert isinstance(piece, Warming)
        assert piece.until == until
        found.append(piece)
        until = piece.first - 1
    return found


def in_order(found: list[Warming]) -> Blocks:
    """The blocks of each endpoint, oldest first."""
    blocks: Blocks = defaultdict(bytes)
    for piece in reversed(found):
        for given in piece.given:
            blocks[given.endpoint, given.pool] += given.hashes
    return blocks


def wanted(directory: Path, first: int) -> tuple[Blocks, int]:
    """The same, and how many decisions, from all entries."""
    blocks: Blocks = defaultdict(bytes)
    decisions = 0
    with open_reader(directory) as reader:
        for entry in reader.entries(first):
            if isinstance(event := entry.event, RequestRouted):
                blocks[event.endpoints[0], event.request.pool] += event.request.prefix
                decisions += 1
    return blocks, decisions


@pytest.mark.parametrize(("positions", "piece_bytes"), [(8192, 1 << 18), (100, 1 << 18), (8192, 64), (1, 1)])
@pytest.mark.parametrize("after", [0, 1234])
def test_the_pieces_together_are_the_decisions_of_the_log_across_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, positions: int, piece_bytes: int, after: int
) -> None:
    write(tmp_path / "log", some(3000 if positions > 1 else 1400), SMALL)
    monkeypatch.setattr(warming, "PIECE_POSITIONS", positions)
    monkeypatch.setattr(warming, "PIECE_BYTES", piece_bytes)
    found = pieces(tmp_path / "log", after)
    blocks, decisions = wanted(tmp_path / "log", after + 1)

    assert len(segment_paths(tmp_path / "log")) > 1
    assert in_order(found) == blocks
    assert sum(piece.decisions for piece in found) == decisions > 30
    assert found[-1].first >= after + 1


def test_a_piece_has_so_many_decisions_at_most(tmp_path: Path) -> None:
    write(tmp_path / "log", some(4000))
    first = pieces(tmp_path / "log")[0]

    assert first.decisions == warming.PIECE_DECISIONS
    with open_reader(tmp_path / "log") as reader:
        assert isinstance(next(reader.entries(first.first)).event, RequestRouted)


def test_the_pickers_own_decisions_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "log", some(500))
    found = pieces(tmp_path / "log", key=(PICKER, EPOCH))

    assert [piece.given for piece in found] == [()]
    assert found[0].decisions > 100


def test_what_is_too_old_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "log", some(600))
    with open_reader(tmp_path / "log") as reader:
        head = reader.head().position
    time.sleep(0.3)
    write(tmp_path / "log", some(900)[600:])
    monkeypatch.setattr(warming, "AGE_MAX", 0.2)
    monkeypatch.setattr(warming, "PIECE_POSITIONS", 200)
    found = pieces(tmp_path / "log")

    assert sum(piece.decisions for piece in found) == wanted(tmp_path / "log", head + 1)[1] > 0
    assert found[-1].first > head - 200


def test_a_segment_that_is_gone_ends_it(tmp_path: Path) -> None:
    write(tmp_path / "log", some(3000), SMALL)
    gone, kept = segment_paths(tmp_path / "log")[:2]
    gone.unlink()
    begins = int(kept.stem)
    found = pieces(tmp_path / "log")

    assert in_order(found) == wanted(tmp_path / "log", begins)[0]
    assert pieces(tmp_path / "log", until=begins - 1) == [Warming(begins - 1, begins - 1, True, 0, ())]


def test_a_log_that_cannot_be_read_ends_it_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "log", some(300))
    with open_reader(tmp_path / "log") as reader:
        head = reader.head().position
    [segment] = segment_paths(tmp_path / "log")
    segment.write_bytes(b"garbage" * 1000)

    assert pieces(tmp_path / "log", until=head) == [Warming(head, head, True, 0, ())]
    assert "the prefix index of picker-9 is not warmed further" in caplog.text


# --- over sockets -----------------------------------------------------------------------------------


def test_a_picker_that_starts_again_has_the_blocks_of_the_one_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with control(tmp_path) as world:
            first = Picker(tmp_path)
            await first.connect()
            await first.read_until(settled)
            for number in (1, 2, 3):
                route(first.end, first.traffic, number, bytes([number]) * 80)
            await first.read_until(settled)
            first.close()
            assert await world.hub.drained(*KEY)
            world.hub.picker_ended(*KEY, "killed by SIGKILL", first.end.buffer.last_n)
            second = Picker(tmp_path, 8)
            await second.connect()
            await second.read_until(lambda end: end.cluster is not None and not end.warmer.wanting)
            await second.read_until(settled)

            for slot, number in enumerate((1, 2, 3)):
                assert second.traffic.prefix.matches(bytes([number]) * 80, ints(0, 1, 2)).tolist()[slot] == 10
            assert second.end.warmer.decisions == 3
            assert second.traffic.statistics().open == second.traffic.statistics().foreign == 0
            second.close()

    run(main)


def test_nobody_waits_for_the_log_to_be_read_backwards(tmp_path: Path) -> None:
    released = threading.Event()
    asked: list[Cold] = []

    def read_slowly(directory: Path, key: EpochKey, cold: Cold) -> bytes:
        asked.append(cold)
        assert released.wait(20)
        return read_warming(directory, key, cold)

    async def main() -> None:
        async with control(tmp_path) as world:
            world.hub._read_warming = partial(read_slowly, tmp_path / "log")
            picker, gone = Picker(tmp_path), Picker(tmp_path, 8)
            try:
                for each in (picker, gone):
                    await each.connect()
                    await each.read_until(settled)
                    assert each.end.warmer.wanting
                began = trio.current_time()
                for _ in range(20):
                    refuse(picker.end)
                    await picker.read_until(settled)
                took = trio.current_time() - began
                gone.close()
                assert await world.hub.drained("picker-0", 8)
                assert len(world.events(RequestRefused)) == 20
                assert len(asked) == 1  # one log is read once at a time
                assert picker.end.warmer.wanting
                assert not picker.end.degraded
            finally:
                released.set()
            await picker.read_until(lambda end: not end.warmer.wanting)
            picker.close()
            assert took < 5

    run(main)
