"""What `schedule` returns."""

from collections.abc import Sequence

import msgspec

from pointsman.core.deciding.refusals import REFUSALS, RefusalReason
from pointsman.core.events import Origin, Read, RequestFacts, RequestRefused, RequestRouted
from pointsman.core.plugin.shapes import Scores
from pointsman.core.state.membership import Endpoint, Slots
from pointsman.core.state.projection import ClusterState


class Decision(msgspec.Struct, frozen=True):
    """The endpoints of a request in the order of choice, or why it has none."""

    endpoints: tuple[int, ...]
    """Numbers of the endpoints; empty where the request is refused."""
    reason: RefusalReason | None
    """Reason of a refusal; None where the request is routed."""
    best: tuple[tuple[int, float], ...]
    """Numbers and sums of the three endpoints with the highest sums."""
    rejections: tuple[tuple[str, int], ...]
    """Counts of rejected candidates by `filter: reason`."""
    reads: tuple[Read, ...]
    """Columns of the traffic state that were read, with their values."""
    avoided: bytes
    """Packed slots that were left out because of advice."""
    degraded: bool
    """Whether it was decided while the feed was lost."""
    digest: bytes
    """Hash over everything the decision rests on and what came of it."""
    scored: Slots
    """Slots that filters kept, ascending."""
    sums: Scores
    """Sums of weighted scores, one for each of `scored`."""

    @property
    def status(self) -> int:
        """The HTTP status of a refusal; 200 where the request is routed."""
        return 200 if self.reason is None else REFUSALS[self.reason].status

    @property
    def message(self) -> str:
        """What a refusal tells the client."""
        return "" if self.reason is None else REFUSALS[self.reason].message

    def authorities(self, cluster: ClusterState) -> list[str]:
        """`address:port` of the endpoints, in the order of choice."""
        return [cluster.endpoints[number].authority for number in self.endpoints]

    def endpoint_scores(self, cluster: ClusterState) -> list[tuple[str, float]]:
        """(`address:port`, sum) of every candidate that was scored, for `--emit-endpoint-scores`."""
        return [
            (member.authority, total) for member, total in zip(self._members(cluster), self.sums.tolist(), strict=True)
        ]

    def _members(self, cluster: ClusterState) -> Sequence[Endpoint]:
        found = [cluster.by_slot[slot] for slot in self.scored.tolist()]
        return [member for member in found if member is not None]

    def to_event(
        self, origin: Origin, decided_at: float, request: RequestFacts, took: int
    ) -> RequestRouted | RequestRefused:
        """The event that records it; it took `took` microseconds."""
        if self.reason is None:
            return RequestRouted(
                origin,
                decided_at,
                request,
                self.endpoints,
                self.best,
                self.rejections,
                self.reads,
                self.avoided,
                self.degraded,
                self.digest,
                took,
            )
        return RequestRefused(
            origin,
            decided_at,
            request,
            self.reason,
            self.status,
            self.message,
            self.rejections,
            self.reads,
            self.avoided,
            self.degraded,
            self.digest,
            took,
        )
