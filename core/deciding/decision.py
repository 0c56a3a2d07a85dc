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
    """Numbers; empty where the request is refused."""
    reason: RefusalReason | None
    best: tuple[tuple[int, float], ...]
    rejections: tuple[tuple[str, int], ...]
    reads: tuple[Read, ...]
    avoided: bytes
    degraded: bool
    digest: bytes
    scored: Slots
    """The slots that filters kept, ascending."""
    sums: Scores
    """Their sums of weighted scores."""

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
        """The entry's event; `took` in microseconds."""
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
