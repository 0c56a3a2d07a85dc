"""Which size a pool's prompt blocks get, where its servers are new or tell one for the first time."""

from collections import Counter

from pointsman.core.events import Event, PrefixBlockSized
from pointsman.core.state.prefix_blocks import PrefixBlock
from pointsman.core.state.projection import ClusterState


class BlockSizes:
    """Says when a size has to be chosen; the state holds it from then on."""

    def __init__(self) -> None:
        self._looked_at = (-1, -1)
        self._said: dict[str, PrefixBlock | None] = {}
        """What was held for a pool when a size was last said: while it is held still, the log has yet to tell."""

    def due(self, state: ClusterState) -> list[Event]:
        """The sizes to be chosen now.

        Of those that a pool's servers tell it is the one held so far, or else the most frequent one, of equals the smallest.
        """
        versions = state.membership_version, state.load_version
        if versions == self._looked_at or not state.cache_block_tokens.any():
            return []
        self._looked_at = versions
        chosen: list[Event] = []
        for pool in state.pools:
            held = state.prefix_blocks.of(pool)
            if (held is not None and held.servers) or (pool in self._said and self._said[pool] is held):
                continue
            told = [int(state.cache_block_tokens[member.slot]) for member in state.members(pool)]
            counts = Counter(tokens for tokens in sorted(told) if tokens)
            if counts:
                before = state.prefix_blocks.tokens(pool)
                tokens = before if before in counts else counts.most_common(1)[0][0]
                chosen.append(PrefixBlockSized(pool, tokens, before))
                self._said[pool] = held
        self._said = {pool: held for pool, held in self._said.items() if pool in state.pools}
        return chosen
