"""Durations and quantities as Kubernetes and Go write them."""

import pytest
from hypothesis import given, strategies as st

from pointsman.core.values.quantities import Duration, encode_duration, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("200ms", 0.2),
        ("1m30s", 90.0),
        ("1.5h", 5400.0),
        ("0", 0.0),
        ("-2s", -2.0),
        (".5s", 0.5),
        ("3us", 3e-6),
        ("7ns", 7e-9),
    ],
)
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "s", "1 s", "1d", "1s2", "--1s", 200, None, True, "9" * 65 + "s"])
def test_what_is_no_duration_is_an_error_that_says_what_was_found(text: object) -> None:
    with pytest.raises(ValueError, match=r"wanted a duration such as"):
        parse_duration(text)


@given(st.integers(0, 2**63 - 1))
def test_a_duration_survives_its_text(nanoseconds: int) -> None:
    seconds = nanoseconds / 10**9

    assert parse_duration(encode_duration(Duration(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (5000, 5000),
        ("5000", 5000),
        ("10Gi", 10 * 2**30),
        ("1G", 10**9),
        ("1.5k", 1500),
        ("1e3", 1000),
        ("1500m", 2),
        ("-1", -1),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(text: object, value: int) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "ten", "1 Gi", "1GiB", 1.5, None, True, "1e", "0x10"])
def test_what_is_no_quantity_is_an_error_that_says_what_was_found(text: object) -> None:
    with pytest.raises(ValueError, match=r"wanted a quantity such as"):
        parse_quantity(text)
