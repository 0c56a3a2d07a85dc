"""The valid name that an unknown one was probably meant to be."""

import difflib
from collections.abc import Iterable


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name nearest to `name`, None where none is near."""
    folded = {other.lower(): other for other in sorted(names)}
    found = difflib.get_close_matches(name.lower(), list(folded), n=1, cutoff=0.6)
    return folded[found[0]] if found else None


def wanted(name: str, names: Iterable[str]) -> str:
    """Return what an error says was wanted instead of `name`: the nearest of `names`, or a few of them."""
    known = sorted(names)
    if not known:
        return "wanted none"
    if (near := nearest(name, known)) is not None:
        return f"did you mean {near!r}?"
    listed = ", ".join(known[:12])
    return f"wanted one of {listed}" + (f" and {len(known) - 12} more" if len(known) > 12 else "")
