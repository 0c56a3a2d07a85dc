"""Warming: a picker process that starts fills its prefix index from the last minutes of the log.

Without it, every prompt would be a stranger to a new process, and go to a server that has to compute it again.
The picker asks the control process for the blocks of past decisions, a piece at a time, the newest first.

- Blocks from the log are put behind all that their endpoint holds: they count as older than what this process has
  decided since it began, and as newer than what the next pieces bring.  So at any moment the index is what it would be
  if this process had seen every decision from some position on.  An endpoint that has no room gets no more: what the
  process has seen for itself is never pushed out.
- A picker that was cut off in the middle of its epoch and got a snapshot has missed decisions.  Their blocks go behind
  all others, too, and so count as older than they are; nothing else is wrong about them.
- A decision records the values that it read, so replay does not depend on how far warming had come.
- A server that started anew holds nothing of before: a piece that reaches back behind that gives it nothing.
- An endpoint that has left gets nothing: its number is never given out again.
- No request waits.  The next piece is asked for when the one before is taken in, and the owner of the loop takes a piece
  in by small steps beside its work.
"""

from pointsman.core.deciding.profile import profile_in_force
from pointsman.core.feed.frames import Cold, FeedError, GivenBlocks, Warming
from pointsman.core.feed.picker_state import TrafficSide
from pointsman.core.prefix.index import INDEX_BLOCKS_MAX
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import PrefixRoom

STEP_BLOCKS = 1024
STEP_ENDPOINTS = 8
"""Endpoints, and above blocks, that one step takes in at most: half a millisecond."""
DECISIONS_MAX = 200_000
BLOCKS_MAX = INDEX_BLOCKS_MAX
"""Blocks asked for in all. With 30 blocks a prompt they are 130,000 decisions: a minute at 2,000 requests/s, and 32 MB over the feed."""


class Warmer:
    """What the prefix index still lacks, and the piece that it is given."""

    def __init__(self, traffic: TrafficSide) -> None:
        self.decisions = 0
        """Decisions looked at since the epoch began."""
        self.blocks = 0
        """Blocks of these decisions that found room in the index."""
        self.pending = False
        """There is something for `step` to do."""
        self._traffic = traffic
        self._until = self._after = 0
        """The decisions above `_after` up to `_until` can still be asked for."""
        self._asked: Cold | None = None
        self._decisions_left = self._blocks_left = 0
        self._given: list[GivenBlocks] = []
        self._first = 0
        """Position from which on the piece has decisions."""
        self._rooms: dict[str, PrefixRoom] = {}

    @property
    def wanting(self) -> bool:
        """Whether there are decisions left to ask for, and room for their blocks as far as is known."""
        return self._until > self._after

    def want(self, until: int, after: int) -> None:
        """Take note of a snapshot of position `until` that came when everything up to `after` was known."""
        self._after = min(after, self._after) if self.wanting else after
        self._until = until
        self._decisions_left, self._blocks_left = DECISIONS_MAX, BLOCKS_MAX
        self._given.clear()

    def reconnected(self) -> None:
        """Forget what was asked for on the former connection: it does not come."""
        self._asked = None

    def ask(self) -> Cold | None:
        """The next piece to ask for; None while one is on its way or not taken in."""
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
        self._first = piece.first
        self._rooms.clear()

    def step(self, cluster: ClusterState) -> None:
        """Take in as much of the piece as a turn of the loop has room for."""
        left = STEP_BLOCKS
        for _ in range(STEP_ENDPOINTS):
            if not self._given or not left:
                break
            given = self._given.pop()
            if self._began_since(cluster, given.endpoint):
                continue
            start = max(0, len(given.hashes) - 8 * left)
            left -= (len(given.hashes) - start) // 8
            self.blocks += self._traffic.warm(given.endpoint, self._room(cluster, given.pool), given.hashes[start:])
            if start:
                self._given.append(GivenBlocks(given.endpoint, given.pool, given.hashes[:start]))
        self.pending = bool(self._given)

    def _began_since(self, cluster: ClusterState, endpoint: int) -> bool:
        """Whether the endpoint's process began after the first decisions of the piece."""
        member = cluster.endpoints.get(endpoint)
        return member is not None and cluster.process_since[member.slot] > self._first

    def _room(self, cluster: ClusterState, pool: str) -> PrefixRoom:
        """The pool's room by the configuration in force; this process may not have had a request for the pool yet."""
        room = self._rooms.get(pool)
        if room is None:
            room = self._rooms[pool] = profile_in_force(cluster, pool).room
        return room
