"""Events survive their bytes, and are as small as promised."""

from typing import get_args

import msgspec
import numpy as np
import pytest
from hypothesis import given, strategies as st
from worlds.event_strategies import EVENT_TYPES, structs
from worlds.strategies import ints

from pointsman.core.events import (
    Event,
    LoadSampled,
    Origin,
    Read,
    RequestFacts,
    RequestRouted,
    class_of,
    decode,
    encode,
)
from pointsman.core.state.traffic import Column
from pointsman.core.values.packing import pack, pack_floats


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_event_survives_its_bytes(kind: type[msgspec.Struct], data: st.DataObject) -> None:
    event: Event = data.draw(structs(kind))
    body = encode(event)

    assert decode(body) == event
    assert encode(decode(body)) == body
    assert class_of(event) in (1, 2, 3, 4)


def test_no_two_events_have_one_tag() -> None:
    tags = [kind.__struct_config__.tag for kind in get_args(Event)]

    assert len(set(tags)) == len(tags)
    assert all(isinstance(tag, str) and tag == tag.lower() for tag in tags)


def test_an_older_event_decodes_with_defaults_and_a_newer_one_without_what_is_unknown() -> None:
    body = msgspec.msgpack.decode(encode(RequestRouted(Origin("p", 1, 2, 3), 0.0, RequestFacts("id", "a/b"), (1,))))

    older = decode(msgspec.msgpack.encode(body[:5]))
    newer = decode(msgspec.msgpack.encode([*body, "a field of the future"]))

    assert older == newer


def test_an_unknown_tag_is_an_error() -> None:
    with pytest.raises(msgspec.DecodeError, match="endpoint-teleported"):
        decode(msgspec.msgpack.encode(["endpoint-teleported", 1]))


@given(busy=st.lists(st.integers(0, 90), min_size=100, max_size=100))
def test_a_decision_among_100_candidates_takes_at_most_400_bytes(busy: list[int]) -> None:
    request = RequestFacts(
        request_id="7d1c3f5e-8f6a-4f0e-9c55-2b8f1f8f2a11",
        pool="inference/llama-3-8b-instruct",
        model="food-review",
        path="/v1/chat/completions",
        objective="interactive",
        priority=1,
        fairness_id="default-flow",
        body_bytes=2048,
        prompt_bytes=1800,
        streamed=True,
    )
    event = RequestRouted(
        Origin("picker-1", 2**64 - 1, 1_000_000, 5_000_000),
        1_790_000_000.123,
        request,
        (4711,),
        ((4711, 2.75), (4712, 2.5), (4713, 2.25)),
        (("low-queue-filter: queue", 12),),
        (Read(Column.IN_FLIGHT, pack(ints(*busy))),),
        pack(ints(17)),
        False,
        bytes(8),
        25,
    )

    assert len(encode(event)) <= 400


@given(waiting=st.lists(st.integers(0, 255), min_size=100, max_size=100))
def test_a_sample_of_100_endpoints_takes_at_most_12_bytes_an_endpoint(waiting: list[int]) -> None:
    numbers = np.sort(np.random.default_rng(sum(waiting)).choice(60_000, 100, replace=False))
    event = LoadSampled(
        pack(numbers.astype(np.int64)),
        1_790_000_000.123,
        pack(ints(*waiting)),
        pack(ints(*waiting)),
        pack(ints(*waiting)),
        pack_floats(np.array(waiting) / 255),
    )

    assert len(encode(event)) <= 12 * 100
