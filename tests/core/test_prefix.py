"""The prefix index against a dictionary of ordered dictionaries."""

import random
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings, strategies as st
from worlds.strategies import ints

from pointsman.core.prefix import index as prefix
from pointsman.core.prefix.hash_table import BlockTable
from pointsman.core.prefix.index import PrefixIndex

SLOTS = 12


LENGTHS: list[int] = []
for _ in range(256):
    LENGTHS.append(1 + max(0, sum(LENGTHS) - 128) // 16)


def length(blocks: Iterable[int]) -> int:
    """Length of blocks by what their hashes say."""
    return sum(LENGTHS[block >> 56] for block in blocks)


class Slow:
    """What the index must do, block by block."""

    def __init__(self, blocks_max: int) -> None:
        self.blocks_max = blocks_max
        self.servers: dict[int, OrderedDict[int, None]] = {}
        self.capacity: dict[int, int] = {}
        self.closed: set[int] = set()

    def record(self, slot: int, blocks: list[int], capacity: int) -> None:
        if not blocks:
            return
        held = self.servers.setdefault(slot, OrderedDict())
        self.capacity.setdefault(slot, capacity)
        for block in blocks:
            held[block] = None
            held.move_to_end(block)
            while length(held) > self.capacity[slot]:
                held.popitem(last=False)
                self.closed.add(slot)
        while (over := sum(map(len, self.servers.values())) - self.blocks_max) > 0:
            fullest = min(self.servers, key=lambda slot: (-len(self.servers[slot]), slot))
            for _ in range(min(over, len(self.servers[fullest]))):
                self.servers[fullest].popitem(last=False)

    def warm(self, slot: int, blocks: list[int], capacity: int) -> int:
        """The latest that are not there and find room, before all others."""
        if not blocks or sum(map(len, self.servers.values())) >= self.blocks_max or slot in self.closed:
            return 0
        held = self.servers.get(slot, OrderedDict())
        room = self.capacity.get(slot, capacity) - length(held)
        if room <= 0:
            return 0
        self.servers[slot] = held
        self.capacity.setdefault(slot, capacity)
        before = len(held)
        for block in reversed(blocks):
            if block in held:
                continue
            if sum(map(len, self.servers.values())) >= self.blocks_max:
                break
            room -= length([block])
            if room < 0:
                self.closed.add(slot)
                break
            held[block] = None
            held.move_to_end(block, last=False)
        return len(held) - before

    def let_go(self, slot: int) -> None:
        self.servers.pop(slot, None)
        self.capacity.pop(slot, None)
        self.closed.discard(slot)

    def matches(self, blocks: list[int]) -> list[int]:
        counts = [0] * SLOTS
        for block, long in zip(blocks, LENGTHS, strict=False):
            holders = [slot for slot, held in self.servers.items() if block in held]
            if not holders:
                break
            for slot in holders:
                counts[slot] += long
        return counts


def packed(blocks: list[int]) -> bytes:
    return np.array(blocks, dtype="<u8").tobytes()


def scattered(number: int, deep: bool = False) -> int:
    """A hash as chained hashes are: all of its bits count; its highest byte is the block's number, 0 unless `deep`."""
    found = xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"))
    return found if deep else found >> 8


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    capacity=st.sampled_from((1, 3, 10, 70, 1000, 30_000)),
    space=st.sampled_from((20, 200, 3000)),
    blocks_max=st.sampled_from((40, 400, 10**6)),
    how=st.tuples(st.sampled_from((0, 1, 2)), st.sampled_from((64, 512, 1024, 8192)), st.sampled_from((1, 32))),
)
def test_the_index_does_what_ordered_dictionaries_do(
    seed: int, capacity: int, space: int, blocks_max: int, how: tuple[int, int, int]
) -> None:
    chance = random.Random(seed)
    scatter, rows, ahead = how
    asked = chance.choice((SLOTS, 40))
    slots = np.arange(asked)
    slots.flags.writeable = False  # asked for again and again, as the slots of a pool are
    index, slow = PrefixIndex(blocks_max), Slow(blocks_max)
    index._table, index._scratch = BlockTable(rows), np.zeros(rows, dtype=np.uint32)  # grows, some of them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix, "_AHEAD", ahead)
        for _ in range(300):
            slot, kind = chance.randrange(SLOTS), chance.random()
            start = chance.randrange(space)
            numbers = range(start, start + chance.randrange(70 if chance.random() < 0.9 else 257))
            blocks = [scattered(number, scatter > 1) if scatter else number + 1 for number in numbers]
            if kind < 0.03:
                index.let_go(slot)
                slow.let_go(slot)
            elif kind < 0.2:
                found = index.warm(slot, packed(blocks), capacity)
                assert found == slow.warm(slot, blocks, capacity)
            elif kind < 0.6:
                index.record(slot, packed(blocks), capacity)
                slow.record(slot, blocks, capacity)
            else:
                assert index.matches(packed(blocks), slots).tolist() == slow.matches(blocks) + [0] * (asked - SLOTS)
            assert [index.held(slot) for slot in range(SLOTS)] == [
                len(slow.servers.get(slot, ())) for slot in range(SLOTS)
            ]
    assert index.statistics().distinct == np.count_nonzero(index._table._flat)
    assert index.blocks == sum(lanes.bit_count() for lanes in index._table.holders.tolist())


@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=40), max_size=8), st.integers(1, 30))
def test_any_hashes_are_taken_even_zero_and_the_same_twice(prompts: list[list[int]], capacity: int) -> None:
    index, slow = PrefixIndex(), Slow(10**9)
    for blocks in prompts:
        index.record(3, packed(blocks), capacity)
        slow.record(3, [block or 1 for block in blocks], capacity)  # a hash of 0 counts as 1

        assert index.held(3) == len(slow.servers.get(3, ()))
        assert index.matches(packed(blocks), ints(3)).tolist() == [slow.matches([b or 1 for b in blocks])[3]]


@given(
    prompts=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=40),
    split=st.integers(0, 40),
    turns=st.lists(st.booleans(), max_size=40),
    capacity=st.sampled_from((1, 5, 30, 1000)),
    piece=st.tuples(st.integers(1, 50), st.booleans()),
)
def test_what_came_before_may_be_taken_backwards_beside_what_comes(
    prompts: list[tuple[int, int, int]], split: int, turns: list[bool], capacity: int, piece: tuple[int, bool]
) -> None:
    size, deep = piece
    asked = [(slot, [scattered(n, deep) for n in range(start, start + count)]) for slot, start, count in prompts]
    in_order, warmed = PrefixIndex(), PrefixIndex()
    for slot, blocks in asked:
        in_order.record(slot, packed(blocks), capacity)
    before = {slot: [b for s, blocks in asked[:split] if s == slot for b in blocks] for slot in range(3)}
    after = asked[split:]
    for own in turns + [True, False] * 2000:
        if own and after:
            slot, blocks = after.pop(0)
            warmed.record(slot, packed(blocks), capacity)
        elif not own:
            for slot, blocks in before.items():
                warmed.warm(slot, packed(blocks[-size:]), capacity)
                del blocks[-size:]
        if not after and not any(before.values()):
            break

    slots = ints(0, 1, 2)
    for number in range(capacity + 2):  # and the order in which they are given up is the same
        assert [warmed.held(slot) for slot in range(3)] == [in_order.held(slot) for slot in range(3)]
        for block in range(100):
            one = packed([scattered(block, deep)])
            assert warmed.matches(one, slots).tolist() == in_order.matches(one, slots).tolist()
        if capacity > 100:
            break
        for index in (in_order, warmed):
            for slot in range(3):
                index.record(slot, packed([scattered(1000 + number)]), capacity)


def test_a_server_without_room_keeps_what_it_has() -> None:
    index = PrefixIndex(blocks_max=6)
    index.record(0, packed([1, 2, 3]), 3)
    assert not index.full([0, 1])

    assert index.warm(0, packed([8, 9]), 5) == 0
    assert index.warm(1, packed([1, 2, 3, 4]), 9) == 3  # those at the end
    assert index.matches(packed([1, 2, 3, 4]), ints(0, 1)).tolist() == [3, 3]
    assert index.warm(2, packed([5])) == 0  # the index is full
    assert index.held(2) == 0
    assert index.full([0, 1, 2])
    assert (index.statistics().warmed, index.statistics().distinct, index.statistics().servers) == (3, 4, 2)


def test_a_server_without_an_early_block_still_counts_later_ones() -> None:
    index = PrefixIndex()
    index.record(0, packed([1, 2, 3, 4]), 2)
    index.record(1, packed([1, 2]))

    assert index.matches(packed([1, 2, 3, 4]), ints(0, 1)).tolist() == [2, 2]
    assert index.matches(packed([9, 1, 2]), ints(0, 1)).tolist() == [0, 0]


def test_a_slot_that_is_let_go_matches_nothing_at_once_and_is_cleaned_up_later() -> None:
    index = PrefixIndex()
    for start in range(0, 6400, 64):
        index.record(0, packed([scattered(n) for n in range(start, start + 64)]))
    index.let_go(0)

    assert index.matches(packed([scattered(n) for n in range(64)]), ints(0)).tolist() == [0]
    assert index.statistics().blocks == 6400
    for _ in range(101):
        index.record(1, packed([5]))
    assert (index.statistics().blocks, index.statistics().distinct) == (1, 1)


def test_the_table_keeps_its_blocks_when_it_grows() -> None:
    table = BlockTable(rows=64)
    hashes = [scattered(n) for n in range(2000)]
    places: dict[int, int] = {}
    for value in hashes:
        while table.full(1):
            moved = table.grow()
            places = dict(zip(places, moved(ints(*places.values())).tolist(), strict=True))
        (row,) = table.insert(table.find(packed([value]))).tolist()
        table.holders[row] = value
        places[value] = row

    rows = [row for at in range(0, 2000, 100) for row in table.find(packed(hashes[at : at + 100])).rows.tolist()]

    assert rows == [places[value] for value in hashes]
    assert table.holders[rows].tolist() == hashes
    assert table.used == 2000


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), ahead=st.sampled_from((1, 10, 40, 1000)), crowded=st.booleans())
def test_a_table_that_changes_while_the_larger_one_is_filled_loses_nothing(
    seed: int, ahead: int, crowded: bool
) -> None:
    chance = random.Random(seed)
    table = BlockTable(rows=256)
    places: dict[int, int] = {}
    held: dict[int, int] = {}
    for step in range(60):
        numbers = chance.sample(range(1, 400), 8 if step else 160)
        values = [number << 5 if crowded else scattered(number) for number in numbers]
        while table.prepare(ahead) or table.full(len(values)):
            moved = table.grow()
            places = dict(zip(places, moved(ints(*places.values())).tolist(), strict=True))
        rows = table.insert(table.find(packed(values)))
        table.holders[rows] = step + 1
        places.update(zip(values, rows.tolist(), strict=True))
        held.update(dict.fromkeys(values, step + 1))
        gone = chance.sample(sorted(places), chance.randrange(10))
        freed = ints(*(places.pop(value) for value in gone))
        table.holders[freed] = 0
        table.free(freed)
        held = {value: at for value, at in held.items() if value in places}
        if table.larger is not None:
            table.larger.follow(rows)
            table.larger.follow(freed)

        assert table.used == len(places)
        assert [row for value in places for row in table.find(packed([value])).rows.tolist()] == list(places.values())
        assert table.holders.take(list(places.values())).tolist() == [held[value] for value in places]
        assert np.count_nonzero(table.holders) == np.count_nonzero(table._flat) == len(places)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(0, 3))
def test_blocks_that_crowd_one_bucket_are_found_moved_and_freed(steps: list[int], home: int) -> None:
    table = BlockTable(rows=256)
    places: dict[int, int] = {}
    for step in steps:
        values = [1 + home + 16 * 1024 * n for n in range(step, step + 30)]  # the same bucket until the table is large
        found = table.find(packed(values))
        assert found.leading == next((i for i, value in enumerate(values) if value not in places), len(values))
        if found.leading == len(values):
            gone = [value for value in values if value % 3 == 0]
            table.free(ints(*(places.pop(value) for value in gone)))
            continue
        if table.full(len(values)):
            moved = table.grow()
            places = dict(zip(places, moved(ints(*places.values())).tolist(), strict=True))
            found = table.find(packed(values))
        for value, row in zip(values, table.insert(found).tolist(), strict=True):
            assert places.setdefault(value, row) == row

        assert len(set(places.values())) == len(places) == table.used
        assert table.find(packed(list(places))).rows.tolist() == list(places.values())


def test_a_block_of_a_server_takes_at_most_100_bytes() -> None:
    chance = np.random.default_rng(7)
    worst = 0.0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        index = PrefixIndex()
        blocks = 0
        for turn in range(3000):  # every block is held by one server only: the dearest case
            prompt = chance.integers(1, 2**63, 64, dtype=np.uint64).tobytes()
            index.record(turn % 100, prompt, 1500)
            blocks = index.statistics().blocks
            if turn > 600:
                worst = max(worst, (tracemalloc.get_traced_memory()[0] - before) / blocks)
        del index
    finally:
        tracemalloc.stop()

    assert blocks == 100 * 1500
    assert worst <= 100
