"""Hypothesis strategies for events: any value of each type, and histories that a log can hold."""

import types
from typing import Any, Union, get_args, get_origin

import msgspec
from hypothesis import strategies as st
from worlds.strategies import ints

from pointsman.core.events import (
    NEVER_SAMPLED,
    BackendRef,
    ConfigAccepted,
    EndpointChanged,
    EndpointJoined,
    EndpointLeft,
    Entry,
    Event,
    GrantFrom,
    GrantTo,
    LabelsChanged,
    LoadSampled,
    LogCreated,
    ObjectiveApplied,
    ObjectiveDeleted,
    Origin,
    PathModifier,
    PickerEnded,
    PickerStarted,
    PoolApplied,
    PoolDeleted,
    QueryMatch,
    ReferenceGrantApplied,
    ReferenceGrantDeleted,
    RequestFacts,
    RequestFinished,
    RequestHeaderModifier,
    RequestMirror,
    RequestRedirect,
    RequestRouted,
    ResponseHeaderModifier,
    RouteDeleted,
    RouteMatch,
    RouteObserved,
    RouteRetry,
    RouteRule,
    ScrapeFailed,
    ScrapePaced,
    ServerStarted,
    UrlRewrite,
    class_of,
    encode,
)
from pointsman.core.values.packing import pack, pack_floats

EVENT_TYPES: tuple[type[Any], ...] = get_args(Event)
POOLS = ("default/a", "default/b")
PICKERS = (("picker-1", 11), ("picker-2", 22))

_PLAIN: dict[object, st.SearchStrategy[Any]] = {
    int: st.integers(0, 2**63 - 1),
    float: st.floats(allow_nan=False),
    str: st.text(max_size=12),
    bytes: st.binary(max_size=24),
    bool: st.booleans(),
    type(None): st.none(),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type that events use."""
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return st.one_of([values(argument) for argument in arguments])
    if origin is tuple and arguments[-1] is Ellipsis:
        return st.lists(values(arguments[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*(values(argument) for argument in arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=3)
    return structs(kind)


def structs(kind: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Any value of a Struct."""
    return st.builds(kind, **{field.name: values(field.type) for field in msgspec.structs.fields(kind)})


def full(kind: Any, text: str) -> Any:
    """A value of a type that events use, with the text wherever a text can stand."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is str:
        return text
    if kind in (int, float, bool, bytes, types.NoneType):
        return kind(1) if kind in (int, float) else kind() if kind is not types.NoneType else None
    if origin in (Union, types.UnionType):
        return full(arguments[0], text)
    if origin is tuple:
        return tuple(full(one, text) for one in arguments if one is not Ellipsis)
    if origin is dict:
        return {full(arguments[0], text): full(arguments[1], text)}
    return kind(**{field.name: full(field.type, text) for field in msgspec.structs.fields(kind)})


def with_behind(value: Any, text: str) -> Any:
    """The value with the text behind every text in it that is not empty: the same becomes the same."""
    match value:
        case str():
            return value + text if value else value
        case msgspec.Struct():
            return type(value)(*(with_behind(getattr(value, name), text) for name in value.__struct_fields__))
        case tuple():
            return tuple(with_behind(item, text) for item in value)
        case dict():
            return {with_behind(key, text): with_behind(item, text) for key, item in value.items()}
        case _:
            return value


def entries(events: list[Event], first: int = 1) -> list[Entry]:
    """The entries of a log that holds these events."""
    return [Entry(n, 0.0, class_of(event), encode(event)) for n, event in enumerate(events, first)]


class _World:
    """What a history has said so far, as far as the next event depends on it."""

    def __init__(self) -> None:
        self.next = 1
        self.members: dict[int, str] = {}
        self.n: dict[tuple[str, int], int] = {}
        self.open: list[tuple[tuple[str, int], int]] = []


@st.composite
def histories(draw: st.DrawFn, longest: int = 40) -> list[Event]:
    """Events in an order in which a log can hold them."""
    world = _World()
    events: list[Event] = [LogCreated("log", "build"), *(PoolApplied(pool, {}, (8000,)) for pool in POOLS)]
    for position in range(len(events) + 1, len(events) + 1 + draw(st.integers(0, longest))):
        events.append(draw(st.sampled_from(_STEPS))(draw, world, position) or ScrapePaced(0.05, 1.0))
    return events


def _join(draw: st.DrawFn, world: _World, position: int) -> Event:
    number, world.next = world.next, world.next + 1
    pool = draw(st.sampled_from(POOLS))
    world.members[number] = pool
    return EndpointJoined(number, pool, f"uid-{number}", "default", f"pod-{number}", f"10.0.0.{number % 250}", 8000)


def _change(draw: st.DrawFn, world: _World, position: int) -> Event | None:
    if not world.members:
        return None
    return EndpointChanged(draw(st.sampled_from(sorted(world.members))), draw(st.booleans()), {"a": draw(_PLAIN[str])})


def _leave(draw: st.DrawFn, world: _World, position: int) -> Event | None:
    if not world.members:
        return None
    number = draw(st.sampled_from(sorted(world.members)))
    del world.members[number]
    return EndpointLeft(number, "deleted")


def _pool(draw: st.DrawFn, world: _World, position: int) -> Event:
    pool = draw(st.sampled_from(POOLS))
    if draw(st.integers(0, 3)):
        return PoolApplied(pool, {"app": draw(_PLAIN[str])}, (8000, 8001))
    world.members = {number: home for number, home in world.members.items() if home != pool}
    return PoolDeleted(pool)


def _sample(draw: st.DrawFn, world: _World, position: int) -> Event:
    known = st.integers(1, world.next)  # a sample may come after its endpoint left
    numbers = sorted(draw(st.sets(known, max_size=6)))
    column = st.lists(st.integers(0, 300), min_size=len(numbers), max_size=len(numbers))
    failed: bool = draw(st.booleans())
    if failed:
        ages: list[int] = [draw(st.sampled_from((0, 50, 700, NEVER_SAMPLED))) for _ in numbers]
        return ScrapeFailed(pack(ints(*numbers)), pack(ints(*ages)))
    waiting, running, earlier = (pack(ints(*draw(column))) for _ in range(3))
    shares: list[int] = draw(column)
    kv_cache = pack_floats(ints(*shares) / 300)
    return LoadSampled(pack(ints(*numbers)), 1.5e9, earlier, waiting, running, kv_cache)


def _labels(draw: st.DrawFn, world: _World, position: int) -> Event:
    adapters = tuple(sorted(draw(st.sets(st.sampled_from("abc")))))
    number = draw(st.integers(1, world.next))
    return LabelsChanged(number, adapters, (), 4, 16, draw(st.sampled_from((0, 2, 5))))


FILTERED = RouteRule(
    (RouteMatch(query=(QueryMatch("v", "1"),), fault="a reason"),),
    (BackendRef("default/a", 1, filters=(ResponseHeaderModifier((("a", "b"),)),)),),
    filters=(
        UrlRewrite("host", PathModifier("ReplaceFullPath", "/v1")),
        RequestRedirect("https", port=443),
        RequestMirror("default/b"),
        RequestHeaderModifier(remove=("c",)),
    ),
    retry=RouteRetry((503,), 2, 0.5),
)
"""A rule that has one of everything."""


def _started(draw: st.DrawFn, world: _World, position: int) -> Event:
    return ServerStarted(draw(st.integers(1, world.next)), draw(st.sampled_from((1e9, 2e9))))


def _object(draw: st.DrawFn, world: _World, position: int) -> Event:
    pool, name = draw(st.sampled_from(POOLS)), draw(st.sampled_from(("batch", "chat")))
    objects: tuple[Event, ...] = (
        ObjectiveApplied(pool, name, draw(st.integers(-5, 5))),
        ObjectiveDeleted(pool, name),
        RouteObserved(f"default/{name}", draw(st.sampled_from(((), (FILTERED,))))),
        ReferenceGrantApplied(f"default/{name}", (GrantFrom("g", "k", "ns"),), (GrantTo("g", "k"),)),
        ReferenceGrantDeleted(f"default/{name}"),
        RouteDeleted(f"default/{name}"),
        ConfigAccepted(pool, b"{}", "test"),
        ScrapePaced(0.1, draw(st.sampled_from((0.5, 2.0)))),
    )
    return draw(st.sampled_from(objects))


def _traffic(draw: st.DrawFn, world: _World, position: int) -> Event:
    key = draw(st.sampled_from(PICKERS))
    n = world.n.get(key, 0) + 1
    origin = Origin(*key, n, position - 1)
    if key not in world.n:
        world.n[key] = n
        return PickerStarted(origin, "build", 1, {})
    if not draw(st.integers(0, 7)):
        del world.n[key]
        world.open = [(owner, number) for owner, number in world.open if owner != key]
        return PickerEnded(*key, "killed", n - 1)
    world.n[key] = n
    mine = [number for owner, number in world.open if owner == key]
    ends: bool = draw(st.booleans())
    if mine and ends:
        ended = draw(st.sampled_from(mine))
        world.open.remove((key, ended))
        return RequestFinished(origin, ended, "complete", 200, 0.1)
    world.open.append((key, n))
    # The endpoint may have left before the picker heard of it.
    return RequestRouted(origin, 0.0, facts(draw(st.sampled_from(POOLS))), (draw(st.integers(1, world.next)),))


def facts(pool: str = POOLS[0], prefix: bytes = b"") -> RequestFacts:
    """The facts of a small request."""
    return RequestFacts("id", pool, "llama", path="/v1/completions", prefix=prefix)


_STEPS = (
    _join,
    _join,
    _change,
    _leave,
    _pool,
    _sample,
    _sample,
    _labels,
    _started,
    _object,
    _traffic,
    _traffic,
    _traffic,
)
