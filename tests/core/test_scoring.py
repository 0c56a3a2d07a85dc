"""Scores and their sums."""

import struct

from hypothesis import given, strategies as st
from worlds.strategies import POOL, Readings, folded, pool_of

from pointsman.core.config.parse import PickingFlags, parse_config
from pointsman.core.deciding.scheduler import Profile, compile_profile, schedule
from pointsman.core.events import RequestFacts
from pointsman.core.plugin.formulas import FEW
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws

REQUEST = RequestFacts("id-1", POOL, model="llama", prefix=bytes(64), prefix_block_bytes=64)
SHARES = st.sampled_from((0.0, -0.0, 1.0, -0.5, 2.0, float("nan"))) | st.floats(0.0, 1.0)


def profile_of(*scorers: tuple[str, float]) -> Profile:
    """A profile of these scorers with their weights."""
    document = {
        "apiVersion": "llm-d.ai/v1alpha1",
        "kind": "EndpointPickerConfig",
        "plugins": [{"type": type} for type, _ in scorers],
        "schedulingProfiles": [
            {"name": "default", "plugins": [{"pluginRef": type, "weight": weight} for type, weight in scorers]}
        ],
    }
    return compile_profile(parse_config(document, {}, PickingFlags()))


@given(
    st.lists(SHARES, min_size=1, max_size=FEW),
    st.lists(st.integers(0, 9), min_size=FEW, max_size=FEW),
    st.tuples(*[st.floats(-1e12, 1e12, allow_nan=False)] * 3),
    st.integers(0, 2),
)
def test_few_candidates_are_summed_to_the_same_bits_as_many(
    shares: list[float], held: list[int], weights: tuple[float, float, float], turn: int
) -> None:
    # of scorers that look at each candidate alone
    types = ["kv-cache-scorer", "prefix-cache-scorer", "lora-affinity-scorer"]
    profile = profile_of(*zip(types[turn:] + types[:turn], weights, strict=True))
    traffic = Readings({Column.PREFIX_BLOCKS: dict(enumerate(held))})

    few, many = (
        schedule(
            folded(pool_of([0] * len(kv_cache), kv_cache=kv_cache)), traffic, profile, REQUEST, Draws("p", 1, 1)
        ).sums.tolist()
        for kv_cache in (shares, shares + [0.5] * FEW)
    )

    assert struct.pack(f"{len(few)}d", *few) == struct.pack(f"{len(few)}d", *many[: len(few)])
