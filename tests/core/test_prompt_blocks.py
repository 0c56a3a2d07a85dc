"""How a prompt is cut into blocks and hashed, and what the share of it that an endpoint holds is worth."""

from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given, strategies as st
from worlds.strategies import POOL, Readings, folded, pool_of

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.view import Cycle, View
from pointsman.core.plugins.prefix_cache_scorer import PrefixCacheScorer
from pointsman.core.prefix.prompt_blocks import BLOCK_DEPTHS, PROMPT_BYTES_MAX, depth_of, prefix_hashes, reach
from pointsman.core.state.traffic import Column
from pointsman.core.values.draws import Draws

REQUEST = RequestFacts("id", POOL, prefix=bytes(8 * 10), prefix_block_bytes=64)
LENGTHS = [after - before for before, after in pairwise(BLOCK_DEPTHS)]


def cut(prompt: bytes, block: int) -> list[bytes]:
    """The whole blocks of a prompt."""
    pieces = []
    for long in LENGTHS:
        piece, prompt = prompt[: long * block], prompt[long * block :]
        if len(piece) < long * block:
            break
        pieces.append(piece)
    return pieces


@given(st.binary(max_size=600), st.binary(max_size=100), st.integers(1, 128))
def test_equal_beginnings_have_equal_hashes_and_differ_after(prompt: bytes, rest: bytes, block: int) -> None:
    short, long = prefix_hashes("m", prompt, block), prefix_hashes("m", prompt + rest, block)

    assert long.startswith(short)
    assert len(short) == 8 * len(cut(prompt, block))


@given(
    seed=st.binary(min_size=1, max_size=9),
    size=st.integers(0, 200_000),
    more=st.integers(0, 100_000),
    at=st.integers(0, 299_999),
    block=st.sampled_from((1, 5, 16, 64, 256, 16384)),
)
def test_a_byte_changes_the_hashes_from_its_block_on_and_no_length_changes_a_cut(
    seed: bytes, size: int, more: int, at: int, block: int
) -> None:
    prompt = (seed * (300_000 // len(seed) + 1))[: size + more]
    assume(at < len(prompt))
    changed = prompt[:at] + bytes([prompt[at] ^ 1]) + prompt[at + 1 :]

    plain, other = prefix_hashes("m", prompt, block), prefix_hashes("m", changed, block)

    lengths = [len(piece) for piece in cut(prompt, block)]
    same = sum(end <= at for end in accumulate(lengths))
    assert len(plain) == len(other) == 8 * len(lengths)
    pairs = [plain[i : i + 8] == other[i : i + 8] for i in range(0, len(plain), 8)]
    assert pairs == [True] * same + [False] * (len(pairs) - same)
    assert plain.startswith(prefix_hashes("m", prompt[:size], block))


def test_256_hashes_reach_128k_tokens_and_more_and_no_block_is_longer_than_a_sixteenth_of_what_lies_before() -> None:
    prompt = b"0123456789abcdef" * (6 << 16)

    assert {len(prefix_hashes("m", prompt, block)) for block in (64, 128)} == {2048}
    assert [BLOCK_DEPTHS[128], BLOCK_DEPTHS[129]] == [128, 129]
    assert all(after - before <= max(1, before / 16) for before, after in pairwise(BLOCK_DEPTHS))
    assert BLOCK_DEPTHS[256] * 64 == reach(64) > 4 * 131072
    assert reach(16384) == PROMPT_BYTES_MAX < len(prompt)
    assert prefix_hashes("m", prompt, 16384) == prefix_hashes("m", prompt[:PROMPT_BYTES_MAX], 16384)


@given(st.binary(min_size=64, max_size=300))
def test_model_salt_and_any_byte_change_all_hashes_after(prompt: bytes) -> None:
    changed = bytes([prompt[0] ^ 1]) + prompt[1:]
    plain = prefix_hashes("m", prompt, 64)

    others = [
        prefix_hashes("n", prompt, 64),
        prefix_hashes("m", prompt, 64, salt="s"),
        prefix_hashes("m", changed, 64),
    ]

    for other in others:
        assert len(other) == len(plain)
        assert all(other[at : at + 8] != plain[at : at + 8] for at in range(0, len(plain), 8))


def test_whole_blocks_up_to_the_limit_are_hashed() -> None:
    assert prefix_hashes("m", b"x" * 100, 64) == prefix_hashes("m", b"x" * 64, 64)
    assert len(prefix_hashes("m", b"x" * 100_000, 64, bytes_max=700)) == 80
    assert prefix_hashes("m", b"", 64) == b""


# --- what they are worth ----------------------------------------------------------------------------


def given_before(*units: int) -> View:
    """As many candidates, which hold so much of the prompt."""
    cluster = folded(pool_of([0] * len(units)))
    traffic = Readings({Column.PREFIX_BLOCKS: dict(enumerate(units))})
    cycle = Cycle(cluster, traffic, REQUEST, Draws("p", 1, 1), cluster.ready(POOL))
    return View(cycle, cycle.candidates, None)


def test_prefix_cache_scorer_is_the_share_of_blocks_held() -> None:
    view = given_before(3, 10)

    assert PrefixCacheScorer().score(REQUEST, view).tolist() == [0.3, 1.0]
    assert PrefixCacheScorer().score(RequestFacts("id", POOL), view).tolist() == [0.0, 0.0]


def test_prefix_cache_scorer_is_the_share_of_the_prompts_length_where_blocks_grow() -> None:
    prompt = bytes(range(256)) * 400
    some, all = (prefix_hashes("m", prompt[:size], 64) for size in (50_000, len(prompt)))
    view = given_before(depth_of(some), depth_of(all))
    scorer = PrefixCacheScorer(match_length_weight=1.0, match_length_scale_tokens=20_000)

    share, whole = PrefixCacheScorer().score(RequestFacts("id", POOL, prefix=all), view).tolist()
    squares = scorer.score(RequestFacts("id", POOL, prefix=all, prefix_block_bytes=64), view).tolist()

    assert (share, whole) == (pytest.approx(50_000 / len(prompt), abs=0.05), 1.0)
    assert squares == pytest.approx([(50_000 / 80_000) ** 2, 1.0], abs=0.1)


@given(st.integers(1, 128), st.integers(0, 128))
def test_a_prompt_that_ends_before_blocks_grow_scores_the_share_of_its_blocks(blocks: int, held: int) -> None:
    prefix = prefix_hashes("m", b"x" * (64 * blocks), 64)
    view = given_before(min(held, blocks))

    assert len(prefix) == 8 * blocks
    assert PrefixCacheScorer().score(RequestFacts("id", POOL, prefix=prefix), view).tolist() == [
        min(held, blocks) / blocks
    ]


def test_prefix_cache_scorer_weighs_length_by_its_square() -> None:
    view = given_before(5, 10)
    scorer = PrefixCacheScorer(match_length_weight=0.5, match_length_scale_tokens=100)

    # 5 and 10 blocks are 80 and 160 tokens
    assert scorer.score(REQUEST, view).tolist() == pytest.approx([0.25 + 0.5 * 0.64, 0.5 + 0.5])
