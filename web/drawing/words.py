"""Numbers, times and durations as people read them."""

from datetime import UTC, datetime

NOTHING = "–"  # noqa: RUF001  # a dash, as in a table of figures
"""Sign in the place of a number that nobody knows."""


def count(value: float | None) -> str:
    """A whole number with thousands; a dash where there is none."""
    return NOTHING if value is None else f"{value:,.0f}"


def rate(value: float | None) -> str:
    """A number a second, with one digit after the point below ten; a dash where there is none."""
    if value is None:
        return NOTHING
    return f"{value:,.1f}" if value < 10 else f"{value:,.0f}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share of 0 to 1; a dash where there is none."""
    return NOTHING if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Seconds in the unit that fits; a dash where nothing was measured."""
    if seconds is None:
        return NOTHING
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


def days(seconds: float) -> str:
    """A long time in the unit that fits: hours below two days."""
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size(count_bytes: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count_bytes < 1000 or unit == "GB":
            return f"{count_bytes:,.0f} {unit}" if unit == "bytes" else f"{count_bytes:,.1f} {unit}"
        count_bytes /= 1000
    raise AssertionError("the last unit fits everything")


def moment(seconds: float | None) -> str:
    """A time in UTC to the millisecond; empty where there is none."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: float, *, seconds: bool = False) -> str:
    """The time of day in UTC, to the minute or to the second."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S" if seconds else "%H:%M")


def plural(number: float, one: str, many: str = "") -> str:
    """`1 request`, `2 requests`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"


def short_time(at: str) -> str:
    """A moment's time of day, with its date where that is not today's (both in UTC)."""
    if not at:
        return ""
    day = "" if at[:10] == datetime.now(UTC).date().isoformat() else f"{at[:10]} "
    return f"{day}{at[11:23]}"
