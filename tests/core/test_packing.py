"""Packed columns come back as they were, in the fewest bytes."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from pointsman.core.values.packing import pack, pack_floats, unpack, unpack_floats

COLUMNS = st.one_of(
    st.lists(st.integers(0, 2**63 - 1), max_size=400),
    st.lists(st.sampled_from((0, 0, 0, 0, 0, 0, 0, 1, 300)), max_size=700),
    st.builds(lambda n, value: [value] * n, st.integers(0, 300), st.integers(0, 2**63 - 1)),
    st.builds(
        lambda n, a, d: [a + d * i for i in range(n)], st.integers(0, 300), st.integers(0, 2**40), st.integers(0, 9)
    ),
)


@given(COLUMNS)
def test_a_column_comes_back_as_it_was(values: list[int]) -> None:
    column = np.array(values, dtype=np.int64)

    packed = pack(column)

    assert unpack(packed).tolist() == values
    assert pack(unpack(packed)) == packed


@given(COLUMNS)
def test_a_packed_column_is_no_longer_than_its_widest_value_needs(values: list[int]) -> None:
    highest = max(values, default=0)
    width = next(width for width in (1, 2, 4, 8) if highest < 1 << (8 * width))

    packed = pack(np.array(values, dtype=np.int64))

    assert len(packed) <= max(13, 1 + width * len(values))


@given(st.binary(max_size=40))
def test_unpack_takes_any_bytes_or_says_what_is_wrong(data: bytes) -> None:
    # The length of a run is not bounded by its bytes: entries come from our own log.
    if data[:1] in (b"C", b"A", b"S") and len(data) > 4 and int.from_bytes(data[1:5], "little") > 1 << 16:
        return
    try:
        column = unpack(data)
    except ValueError as error:
        said = str(error)
    else:
        said = f"wanted a mode byte: {len(column)} values"

    assert "wanted a mode byte" in said


def test_a_negative_value_is_our_mistake() -> None:
    with pytest.raises(AssertionError, match="unsigned"):
        pack(np.array([1, -1]))


@given(st.lists(st.floats(0, 1, width=32)))
def test_floats_of_four_bytes_come_back_as_they_were(values: list[float]) -> None:
    assert unpack_floats(pack_floats(np.array(values, dtype=np.float64))).tolist() == values
