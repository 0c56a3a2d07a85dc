"""Draws, and drawing without replacement."""

from collections import Counter

from hypothesis import given, strategies as st
from xxhash import xxh3_64_intdigest

from pointsman.core.values.draws import Draws, drawn


@given(st.text(max_size=20), st.integers(0, 2**64 - 1), st.integers(0, 2**63), st.integers(0, 2**31))
def test_a_draw_is_computed_from_picker_epoch_number_and_index(picker: str, epoch: int, n: int, i: int) -> None:
    key = picker.encode() + b"\0" + epoch.to_bytes(8, "little") + n.to_bytes(8, "little") + i.to_bytes(4, "little")

    draw = Draws(picker, epoch, n)(i)

    assert draw == (xxh3_64_intdigest(key) >> 11) / 2**53
    assert 0.0 <= draw < 1.0


def test_draws_are_spread_evenly() -> None:
    tenths = Counter(int(10 * Draws("p", 1, n)(i)) for n in range(500) for i in range(20))

    assert set(tenths) == set(range(10))
    assert all(900 <= count <= 1100 for count in tenths.values())


@given(st.integers(0, 20), st.integers(0, 25), st.integers(1, 1000))
def test_drawing_without_replacement_draws_each_once(size: int, count: int, n: int) -> None:
    steps = iter(range(100))
    draws = Draws("p", 1, n)

    found = drawn(list(range(size)), count, lambda: draws(next(steps)))

    assert len(found) == len(set(found)) == min(size, count)
