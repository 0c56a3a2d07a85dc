"""Prefer endpoints that were given the beginning of this prompt before."""

import msgspec
import numpy as np

from pointsman.core.events import RequestFacts
from pointsman.core.plugin.shapes import Scores, scorer
from pointsman.core.plugin.view import View
from pointsman.core.prefix.prompt_blocks import depth_of

_ONE = np.ones(())
_BYTES_A_TOKEN = 4
"""Bytes a token is taken to have: the estimate of GIE and llm-d-router."""


@scorer("prefix-cache-scorer", version=2, load=False, bounded=True, advantage="longer cached prefix")
class PrefixCacheScorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Scores the share of the prompt, as far as it is hashed, that the endpoint holds.

    With `matchLengthWeight` w, (1 - w) of the score is that share and w of it the square of the held
    length over `matchLengthScaleTokens`, at most 1.
    The other parameters shape the prefix index; the picker process reads them (`EffectiveConfig.prefix`).
    """

    match_length_weight: float = 0.0
    match_length_scale_tokens: int = 8192
    prefix_match_info_producer_name: str = ""
    hash_block_size: int | None = None
    """Bytes a block, by its name in GIE v0.5 and v1.0."""
    block_size: int | None = None
    """Bytes a block, by its name in GIE v1.1 to v1.3."""
    block_size_tokens: int | None = None
    """Tokens of 4 bytes a block, by its name since GIE v1.4."""
    max_prefix_blocks_to_match: int | None = None
    max_prefix_tokens_to_match: int | None = None
    lru_capacity_per_server: int | None = None
    auto_tune: bool | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.match_length_weight <= 1.0:
            raise ValueError(f"matchLengthWeight is {self.match_length_weight}, wanted 0 to 1")
        if self.match_length_weight > 0.0 and self.match_length_scale_tokens <= 0:
            raise ValueError(f"matchLengthScaleTokens is {self.match_length_scale_tokens}, wanted above 0")

    def score(self, request: RequestFacts, view: View, /) -> Scores:
        depth = depth_of(request.prefix)
        if not depth:
            return np.zeros(view.size)
        held = view.prefix_blocks
        scores: Scores = held / depth
        np.fmin(scores, _ONE, scores)  # more than the prompt has is held only in logs that were tampered with
        if self.match_length_weight:
            tokens = held * (request.prefix_block_bytes / _BYTES_A_TOKEN)
            length = np.minimum(tokens / self.match_length_scale_tokens, 1.0)
            scores = (1.0 - self.match_length_weight) * scores + self.match_length_weight * (length * length)
        return scores

    def words(self, request: RequestFacts, view: View, index: int, /) -> str:
        depth = depth_of(request.prefix)
        if not depth:
            return "the prompt was too short to have a prefix"
        return f"it already held {100 * int(view.prefix_blocks[index]) / depth:.0f} % of the prompt's prefix"
