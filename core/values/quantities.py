"""Durations and quantities, as Kubernetes and Go write them."""

import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

_UNITS = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),
    "μs": Fraction(1, 10**6),
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "m": Fraction(60),
    "h": Fraction(3600),
}
_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_SUFFIXES: dict[str, int | Fraction] = {
    "": 1,
    "m": Fraction(1, 1000),
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
    "Pi": 2**50,
    "Ei": 2**60,
}
_QUANTITY = re.compile(r"([+-]?(?:\d{1,30}(?:\.\d{0,30})?|\.\d{1,30}))([eE][+-]?\d{1,2}|[KMGTPE]i|[mkMGTPE]|)")


class Duration(float):
    """Seconds, written `200ms` or `1m30s` in a configuration."""


def parse_duration(text: object) -> Duration:
    """Return a Go duration string as seconds; `ValueError` says what was found."""
    if isinstance(text, str) and len(text) <= 64:
        body = text[1:] if text[:1] in ("-", "+") else text
        parts = list(_PART.finditer(body))
        if body == "0" or (parts and "".join(part.group() for part in parts) == body):
            seconds = sum((Fraction(part[1]) * _UNITS[part[2]] for part in parts), Fraction(0))
            whole = Fraction(round(seconds * 10**9), 10**9)  # Go counts nanoseconds
            return Duration(-whole if text[0] == "-" else whole)
    raise ValueError(f"found {text!r}, wanted a duration such as '200ms' or '1m30s'")


def parse_quantity(value: object) -> int:
    """Return a Kubernetes quantity as a whole number, rounded up; `ValueError` says what was found."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _QUANTITY.fullmatch(value)):
        suffix = found[2]
        scale = (
            Fraction(10) ** int(suffix[1:]) if suffix[:1] in ("e", "E") and suffix[1:] else Fraction(_SUFFIXES[suffix])
        )
        exact = Fraction(found[1]) * scale
        return -(-exact.numerator // exact.denominator)
    raise ValueError(f"found {value!r}, wanted a quantity such as 5000, '512Mi' or '1G'")


def decode_duration(kind: type, value: Any) -> Any:  # the signature msgspec calls
    """`dec_hook` of msgspec for Structs with Durations."""
    if kind is Duration:
        return Duration(value) if isinstance(value, float) else parse_duration(value)
    raise NotImplementedError(f"no decoding for {kind}")


def encode_duration(value: Any) -> Any:  # the signature msgspec calls
    """`enc_hook` of msgspec: shortest text that reads back as the same float."""
    if isinstance(value, Duration):
        return f"{Decimal(repr(float(value))):f}s"
    raise NotImplementedError(f"no encoding for {type(value)}")
