"""Regular expressions as the gateway judges them.

Envoy runs them with RE2, and refuses a whole route table for one that RE2 does not take.
So RE2 itself is asked, with the options that Envoy gives it; the extra `gateway` brings it beside Envoy.
"""

from functools import lru_cache

try:
    import re2
except ImportError:  # without the extra there is no Envoy either, and nobody runs what is not judged
    re2 = None

PATTERNS_MAX = 4_096
"""Patterns whose judgement is remembered: 64 routes with as many as fit."""

_SPECIAL = frozenset("\\.[](){}*+?|^$")
_OPTIONAL = ("*", "?", "{")


def judged() -> bool:
    """Whether RE2 is here to judge."""
    return re2 is not None


@lru_cache(maxsize=PATTERNS_MAX)
def regex_fault(pattern: str) -> str:
    """Why RE2 does not take `pattern`, in its words; empty where it does."""
    if not pattern:
        return "is empty"
    if re2 is None:
        return ""
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        found = error.args[0] if error.args else ""
        return found.decode(errors="replace") if isinstance(found, bytes) else str(found) or "is not taken"
    return ""


def literal_prefix(pattern: str) -> str:
    """Text that all that `pattern` may mean begins with, as far as that is plain to see; perhaps none."""
    plain = pattern.removeprefix("^")
    if "|" in plain:
        return ""
    end = next((at for at, letter in enumerate(plain) if letter in _SPECIAL), len(plain))
    if plain[end : end + 1] in _OPTIONAL:
        end -= 1
    return plain[: max(end, 0)]
