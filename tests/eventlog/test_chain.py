"""The hash chain, as values."""

from collections.abc import Sequence

from hypothesis import given, strategies as st

from pointsman.core.events import Entry
from pointsman.eventlog.chain import Batch, check_batch, genesis, seal

items = st.lists(st.tuples(st.integers(1, 4), st.binary(max_size=40)), min_size=1, max_size=20)
times = st.floats(0, 4e9)


def entries_of(batch: Batch, things: Sequence[tuple[int, bytes]]) -> list[Entry]:
    return [Entry(batch.first + i, batch.recorded_at, kind, body) for i, (kind, body) in enumerate(things)]


def sealed(previous: bytes, first: int, at: float, things: Sequence[tuple[int, bytes]]) -> Batch:
    return seal(previous, first, at, [kind for kind, _ in things], [body for _, body in things])


@given(st.lists(items, min_size=1, max_size=5), st.integers(1, 2**40), times)
def test_a_chain_of_sealed_batches_verifies(batches: list[list[tuple[int, bytes]]], first: int, at: float) -> None:
    previous = genesis("log")
    for things in batches:
        batch = sealed(previous, first, at, things)
        assert batch.last == first + len(things) - 1
        assert check_batch(batch, previous, entries_of(batch, things)) is None
        previous, first = batch.digest, batch.last + 1


@given(items, times, st.data())
def test_any_change_to_a_batch_is_found(things: list[tuple[int, bytes]], at: float, data: st.DataObject) -> None:
    previous = genesis("log")
    batch = sealed(previous, 7, at, things)
    entries = entries_of(batch, things)
    index = data.draw(st.integers(0, len(entries) - 1))
    old = entries[index]
    changed = data.draw(
        st.sampled_from(
            [
                entries[:index] + entries[index + 1 :],
                [*entries, Entry(batch.last + 1, at, 4, b"")],
                [*entries[:index], Entry(old.position, old.recorded_at + 1, old.kind, old.body), *entries[index + 1 :]],
                [*entries[:index], Entry(old.position, old.recorded_at, 5 - old.kind, old.body), *entries[index + 1 :]],
                [*entries[:index], Entry(old.position, at, old.kind, old.body + b"\0"), *entries[index + 1 :]],
                [*entries[:index], Entry(old.position + 1, at, old.kind, old.body), *entries[index + 1 :]],
            ]
        )
    )

    assert check_batch(batch, previous, changed) is not None


@given(items, times)
def test_a_batch_belongs_behind_one_digest_only(things: list[tuple[int, bytes]], at: float) -> None:
    batch = sealed(genesis("log"), 1, at, things)

    assert check_batch(batch, genesis("other"), entries_of(batch, things)) is not None


@given(items, times)
def test_swapped_bodies_are_found(things: list[tuple[int, bytes]], at: float) -> None:
    batch = sealed(genesis("log"), 1, at, things)
    turned = entries_of(batch, [things[-1], *things[1:-1], things[0]]) if len(things) > 1 else entries_of(batch, things)

    problem = check_batch(batch, genesis("log"), turned)

    assert (problem is None) == (things[0] == things[-1])
