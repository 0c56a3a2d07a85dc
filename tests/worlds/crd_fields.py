"""What each field of a kind of object does, held to the list of its fields and to what reading an example says.

A kind has a list of its fields, made of its CRD or of its types (`tests/vendor/crds/`), a table in the documents that says of each field
what it does, and an example that has all of them.  `check_fields` says where they do not agree: a field that the next
version of the CRD has is in the list, and fails until table and example have it too.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import msgspec

from pointsman.cluster.objects.manifest import read_manifest
from pointsman.cluster.objects.yaml_document import DocumentError

ROOT = Path(__file__).parent.parent.parent
WORKS, WARNED, REFUSED, ANSWERS_500, NO_DIFFERENCE = "works", "warned", "refused", "500", "no difference"
Steps: TypeAlias = tuple[str | int, ...]
Fields: TypeAlias = dict[str, list[str]]
Example: TypeAlias = dict[str, object]
Read: TypeAlias = Callable[[Example], tuple[str, tuple[str, ...]]]
"""What an example says, as text that begins with `error` where it is wrong, and the warnings, each with its place first."""


def fields_of(kind: str) -> Fields:
    """The fields of a kind, each with the values that it may have where the CRD lists them."""
    lines = (ROOT / "tests/vendor/crds" / f"{kind}.txt").read_text().splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines if not line.startswith("#")}


def rows(page: str, heading: str) -> list[tuple[str, ...]]:
    """The rows of the table below a heading of a page: the field of each, then its effects."""
    text = (ROOT / "docs" / page).read_text().split(f"\n{heading}\n")[1].split("\n#")[0]
    cells = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:3] == "| `"
    ]
    return [(field.strip("`"), *effects) for field, *effects in cells]


def check_fields(
    kind: str,
    effects: dict[str, str],
    *examples: Example,
    read: Read | None = None,
    roots: Sequence[str] = ("spec",),
) -> list[str]:
    """What does not agree; `effects` are the table's, by field, in which `*` stands for any end."""
    fields = fields_of(kind)
    problems = [f"{row} is no field of {kind}" for row in effects if not any(_means(row, f) for f in fields)]
    places: dict[str, list[tuple[Example, Steps]]] = {field: [] for field in fields}
    for example in examples:
        for steps, _ in _leaves(example, roots):
            place = _field(steps, fields)
            if (example, place) not in places.setdefault(_name(place), []):
                places[_name(place)].append((example, place))
    problems += [f"{field} is in an example, and no field of {kind}" for field in places.keys() - fields.keys()]
    for field, values in fields.items():
        told = [effect for row, effect in effects.items() if _means(row, field)]
        shown = {str(_at(*place)) for place in places[field]}
        if len(told) != 1:
            problems.append(f"{field} stands in {len(told)} rows of the table, wanted one")
        elif not shown or (missing := set(values) - shown):
            problems.append(f"{field}: no example has {', '.join(sorted(missing)) if shown else 'it'}")
        elif why := _differs(places[field], told[0], read or _read):
            problems.append(f"{field} is said to be {told[0]!r}, but {why}")
    return problems


def _field(steps: Steps, fields: Fields) -> Steps:
    """The field that a place belongs to: a mapping of an operator's own keys, such as labels, is one."""
    holders = [steps[:end] for end in range(len(steps), 0, -1)]
    return next((holder for holder in holders if _name(holder) in fields), steps)


def _means(row: str, field: str) -> bool:
    return fnmatchcase(field.replace("[]", "…"), row.replace("[]", "…"))


def _differs(places: list[tuple[Example, Steps]], effect: str, read: Read) -> str:
    """Why a field does not have the effect that the table tells; empty where it has."""
    wholes = {id(example): read(example) for example, _ in places}
    told = [(wholes[id(example)], read(_without(example, place))) for example, place in places]
    if effect == REFUSED:
        refused = [whole[0].startswith("error") > without[0].startswith("error") for whole, without in told]
        return "" if any(refused) else "it is taken"
    changed = [whole[0] != without[0] for whole, without in told]
    if effect == WORKS:
        return "" if any(changed) else "nothing changes without it"
    if effect == NO_DIFFERENCE:
        return "something changes without it" if any(whole != without for whole, without in told) else ""
    if effect == WARNED and any(changed):
        return "something changes without it"
    words = "500" if effect == ANSWERS_500 else ""
    for (_, place), ((_, warnings), _) in zip(places, told, strict=True):
        if not any(_about(place, one) and words in one for one in warnings):
            return f"nobody is told of {_dotted(place)}"
    return ""


def _about(place: Steps, warning: str) -> bool:
    """Whether a warning is about a place, about what it is in, or about the type of what it is in."""
    words = re.sub(r"^line \d+: ", "", warning)
    holders = [_dotted(place[:end]) for end in range(1, len(place) + 1)]
    return any(words.startswith((f"{holder}: ", f"{holder}.type: ")) for holder in holders if len(holder) > len("spec"))


def _read(example: Example) -> tuple[str, tuple[str, ...]]:
    """What reading the example gives, as text, and what is warned of."""
    try:
        manifest = read_manifest("f.yaml", json.dumps(example).encode())
    except DocumentError as error:
        return f"error: {error.message}", ()
    [found] = manifest.objects
    value = msgspec.structs.asdict(found.value) | {"version": ""}
    return repr(value), tuple(re.sub(r"line \d+ already", "", one) for one in manifest.warnings)


def _leaves(value: object, roots: Sequence[str], at: Steps = ()) -> Iterator[tuple[Steps, object]]:
    """The places of an example that hold no others, in the parts of it that are asked for."""
    children: list[tuple[str | int, object]] = []
    if isinstance(value, dict):
        children = [(name, inner) for name, inner in value.items() if at or name in roots]
    elif isinstance(value, list):
        children = list(enumerate(value))
    else:
        yield at, value
    for step, inner in children:
        yield from _leaves(inner, roots, (*at, step))


def _name(steps: Steps) -> str:
    return re.sub(r"\[\d+\]", "[]", _dotted(steps))


def _dotted(steps: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _at(value: object, steps: Steps) -> object:
    for step in steps:
        assert isinstance(value, dict | list)
        value = value[step]  # type: ignore[index]  # a key of a mapping or an index of a list
    return value


def _without(example: Example, place: Steps) -> Example:
    """The example without this place, and without what holds nothing else."""
    changed = copy.deepcopy(example)
    while place:
        *before, last = place
        holder = _at(changed, tuple(before))
        assert isinstance(holder, dict | list)
        del holder[last]  # type: ignore[arg-type]  # a key of a mapping or an index of a list
        if holder or len(before) <= 1:
            break
        place = tuple(before)
    return changed
