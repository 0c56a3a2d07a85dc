"""Filling the prefix index of a picker process that starts from the log's last minutes.

Rules.
- The newest decisions come first, and the blocks of each go behind all that their endpoint holds: they count as older
  than whatever this process has decided or observed meanwhile, and as newer than what comes after them.
  So the index is at any moment what it were had this process seen every decision from some position on,
  and what it has of its own is never pushed out: an endpoint without room for more gets none.
- What was missed before a Snapshot in the middle of an epoch goes behind what is held as well: it counts as older than
  it is, and nothing else does.
- Decisions record the values that they read, so none depends on how far this has come when it is made again.
- Endpoints that have left get nothing: their numbers are not given out again.
- Nobody waits.  A piece is asked for when the one before is taken in, and taken in by steps that the owner of the loop
  does beside its work.  Requests in flight are not touched.
"""

from pointsman.core.deciding.profile import profile_in_force
from pointsman.core.feed.frames import Cold, FeedError, GivenBlocks, Warming
from pointsman.core.feed.picker_state import TrafficSide
from pointsman.core.prefix.index import INDEX_BLOCKS_MAX
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import PrefixRoom

STEP_BLOCKS = 1024
STEP_ENDPOINTS = 8
"""What a step takes in at most: half a millisecond."""
DECISIONS_MAX = 200_000
BLOCKS_MAX = INDEX_BLOCKS_MAX
"""Of 30 blocks, 130,000 decisions: a minute at 2,000 requests/s, and 32 MB over the feed."""


class Warmer:
    """What the prefix index still lacks, and the piece that it is given."""

    def __init__(self, traffic: TrafficSide) -> None:
        self.decisions = 0
        """Looked at, since the epoch began."""
        self.blocks = 0
        """Of theirs, those that found room."""
        self.pending = False
        """There is something for `step` to do."""
        self._traffic = traffic
        self._until = self._after = 0
        """The decisions above the one up to the other are to be had."""
        self._asked: Cold | None = None
        self._decisions_left = self._blocks_left = 0
        self._given: list[GivenBlocks] = []
        self._rooms: dict[str, PrefixRoom] = {}

    @property
    def wanting(self) -> bool:
        """There are decisions to be had and room for them, as far as is known."""
        return self._until > self._after

    def want(self, until: int, after: int) -> None:
        """A Snapshot of position `until` came, where everything up to `after` was known."""
        self._after = min(after, self._after) if self.wanting else after
        self._until = until
        self._decisions_left, self._blocks_left = DECISIONS_MAX, BLOCKS_MAX
        self._given.clear()

    def reconnected(self) -> None:
        """What was asked for on the former connection does not come."""
        self._asked = None

    def ask(self) -> Cold | None:
        """What to ask for now: nothing while a piece is on its way or not taken in."""
        if self._asked is not None or self.pending or not self.wanting:
            return None
        if self._decisions_left <= 0 or self._blocks_left <= 0 or self._traffic.full():
            self._until = 0
            return None
        self._asked = Cold(self._until, self._after)
        return self._asked

    def take(self, piece: Warming) -> None:
        """Take the piece that was asked for; `FeedError` for another one."""
        asked, self._asked = self._asked, None
        if asked is None or piece.until != asked.until or not 0 < piece.first <= asked.until:
            raise FeedError(f"Warming of {piece.first} to {piece.until}, asked for was {asked}")
        self.pending = True
        if asked != Cold(self._until, self._after):
            return  # asked before the Snapshot that came since
        self._until = 0 if piece.last else piece.first - 1
        self.decisions += piece.decisions
        self._decisions_left -= piece.decisions
        self._blocks_left -= sum([len(given.hashes) for given in piece.given]) // 8
        self._given.extend(piece.given)
        self._rooms.clear()

    def step(self, cluster: ClusterState) -> None:
        """Take in as much of the piece as a turn of the loop has room for."""
        left = STEP_BLOCKS
        for _ in range(STEP_ENDPOINTS):
            if not self._given or not left:
                break
            given = self._given.pop()
            start = max(0, len(given.hashes) - 8 * left)
            left -= (len(given.hashes) - start) // 8
            self.blocks += self._traffic.warm(given.endpoint, self._room(cluster, given.pool), given.hashes[start:])
            if start:
                self._given.append(GivenBlocks(given.endpoint, given.pool, given.hashes[:start]))
        self.pending = bool(self._given)

    def _room(self, cluster: ClusterState, pool: str) -> PrefixRoom:
        """As the configuration in force says; the pool may not have had a request here."""
        room = self._rooms.get(pool)
        if room is None:
            room = self._rooms[pool] = profile_in_force(cluster, pool).room
        return room
