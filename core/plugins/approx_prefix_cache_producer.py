"""What of a prompt each endpoint was given before, by the hashes of its blocks."""

import msgspec

from pointsman.core.plugin.shapes import data_producer


@data_producer("approx-prefix-cache-producer", version=1)
class ApproxPrefixCacheProducer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Shapes the prefix index of the picker process, which reads the parameters (`EffectiveConfig.prefix`)."""

    block_size_tokens: int | None = None
    """Tokens of 4 bytes a block."""
    block_size: int | None = None
    """The same by its deprecated name."""
    max_prefix_tokens_to_match: int | None = None
    max_prefix_blocks_to_match: int | None = None
    lru_capacity_per_server: int | None = None
    auto_tune: bool | None = None
