"""The register of plugin types, and the proof that a class has the shape of its kind.

What a plugin does in a decision follows from the kinds it is registered as, never from the methods that its
class happens to have.  So a class that lacks a method, or has one that its kind does not know, is refused where
it is defined: later it could only be left out without a word.
`shapes.py` has the shape of each kind, and its decorator.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import FunctionType
from typing import Literal, TypeVar

import msgspec

from pointsman.core.values.distance import wanted

PluginKind = Literal[
    "filter",
    "scorer",
    "picker",
    "detector",
    "profile handler",
    "data producer",
    "metrics source",
    "extractor",
    "parser",
    "discovery",
]


class Registered(msgspec.Struct, frozen=True):
    """A plugin type."""

    name: str
    version: int
    struct: type[msgspec.Struct]
    kinds: frozenset[PluginKind]
    """What it serves as: one kind, or two for a detector that is a filter as well."""


REGISTER: dict[str, Registered] = {}
"""Every plugin type this process knows, by the `type` an EndpointPickerConfig names it by."""


class Shape(msgspec.Struct, frozen=True):
    """What a kind asks of a class beside its parameters."""

    required: tuple[type, ...] = ()
    """Protocols whose methods the class must have."""
    optional: Mapping[str, object] = {}
    """Members the class may have, each with what stands in for it: a function for a method, else a parameter's value."""
    given: Mapping[str, object] = {}
    """Attributes that registration puts on the class.  They come from the decorator, so the class may not have them."""


PluginClass = TypeVar("PluginClass")


def register(
    kinds: Sequence[PluginKind], types: Sequence[str], version: int, shape: Shape
) -> Callable[[type[PluginClass]], type[PluginClass]]:
    """Return a decorator that enters a class under `types`, the first being its name and the others older ones.

    `TypeError` where the class has another shape, `ValueError` where a name is taken.
    """

    def enter(struct: type[PluginClass]) -> type[PluginClass]:
        if not types:
            raise ValueError(f"{kinds[0]} {struct.__name__} is registered under no name, wanted a plugin type")
        for type in types:
            if type in REGISTER:
                raise ValueError(f"plugin type {type!r} is registered twice: {REGISTER[type].struct} and {struct}")
        fault = _fault(struct, shape)
        if fault is not None:
            raise TypeError(f"{' and '.join(kinds)} {types[0]!r}: {fault}")
        assert issubclass(struct, msgspec.Struct), "a class without a fault is a Struct"
        missing = {name: member for name, member in shape.optional.items() if not hasattr(struct, name)}
        for name, member in (missing | dict(shape.given)).items():
            setattr(struct, name, member)
        for type in types:
            REGISTER[type] = Registered(type, version, struct, frozenset(kinds))
        return struct

    return enter


def _fault(struct: type, shape: Shape) -> str | None:
    """What is wrong with the class, and what was wanted; None where nothing is."""
    who = f"class {struct.__name__}"
    if not issubclass(struct, msgspec.Struct):
        return f"{who} is no msgspec.Struct, wanted one whose fields are the parameters"
    config, fields = struct.__struct_config__, struct.__struct_fields__
    for option, chosen in (("frozen", config.frozen), ("forbid_unknown_fields", config.forbid_unknown_fields)):
        if not chosen:
            return f"{who} has not the option {option}=True, wanted it: parameters are fixed, and others are errors"
    for name in struct.__struct_encode_fields__:
        if "_" in name:
            return f'{who} has the parameter {name!r}, wanted no "_" in its name: the option rename="camel" sees to it'
    required = {name: method for protocol in shape.required for name, method in _methods(protocol)}
    for name in shape.given:
        if name in fields or _find(struct, name) is not None:
            return f"{who} has {name}, wanted it in the decorator, as in {name}=..., and no parameter of that name"
    for name, like in {**required, **shape.optional}.items():
        if isinstance(like, FunctionType):
            fault = _method_fault(who, name, _find(struct, name), like, needed=name in required)
            if fault is not None:
                return fault
        elif name not in fields and _find(struct, name) is not None:
            return f"{who} has {name}, which is no parameter, wanted a field {name} of the Struct or none"
    known = {*required, *shape.optional}
    for name in _public(struct):
        if name not in known and name not in fields:
            also = wanted(name, known) if known else "wanted parameters alone"
            return f"{who} has {name}, which its kind does not know, {also} (a name of its own begins with _)"
    return None


def _method_fault(who: str, name: str, found: object, like: FunctionType, *, needed: bool) -> str | None:
    wanted_parameters = list(inspect.signature(like).parameters)
    as_wanted = f"wanted {name}({', '.join(wanted_parameters)})"
    if found is None:
        return f"{who} has no {name}, {as_wanted}" if needed else None
    if not isinstance(found, FunctionType):
        return f"{name} of {who} is a {type(found).__name__}, {as_wanted}"
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found) or inspect.isasyncgenfunction(found):
        return f"{name} of {who} waits or yields, {as_wanted} that returns: nothing waits in a decision"
    signature = inspect.signature(found)
    try:
        signature.bind(*wanted_parameters)
    except TypeError:
        return f"{name} of {who} takes ({', '.join(signature.parameters)}), {as_wanted}"
    return None


def _methods(protocol: type) -> list[tuple[str, FunctionType]]:
    """What a Protocol of methods asks for."""
    return [
        (name, method)
        for name, method in vars(protocol).items()
        if isinstance(method, FunctionType) and not name.startswith("_")
    ]


def _find(struct: type, name: str) -> object:
    """The member as it stands in the class, not bound; None without one."""
    return inspect.getattr_static(struct, name, None)


def _public(struct: type) -> list[str]:
    """The names that the class and its bases below Struct define, but for those that begin with an underscore."""
    own = [base for base in struct.__mro__ if base not in msgspec.Struct.__mro__]
    return sorted({name for base in own for name in vars(base) if not name.startswith("_")})
