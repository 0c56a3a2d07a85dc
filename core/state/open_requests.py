"""Requests that were routed and have no end yet, as the committed entries tell."""

from collections.abc import Sequence

from pointsman.core.events import (
    Event,
    OpenRequestsListed,
    PickerEnded,
    RequestFinished,
    RequestRouted,
)
from pointsman.core.state.marks import FinishedMark, Mark, RoutedMark
from pointsman.core.state.membership import EpochKey
from pointsman.core.values.packing import unpack


class OpenRequests:
    """The routed requests that have no end yet, of every epoch, folded from committed entries.

    Beside the cluster state, because decisions do not depend on it: in-flight counts are traffic state.
    The control process closes requests with it, and tells a picker those of other epochs.
    """

    def __init__(self) -> None:
        self.by_epoch: dict[EpochKey, dict[int, int]] = {}
        """Open requests of each (picker, epoch): `n` of the decision, and number of its chosen endpoint."""

    def apply_event(self, event: Event | Mark) -> None:
        """Fold one event."""
        match event:
            case RequestRouted(origin) | RoutedMark(origin):
                self.by_epoch.setdefault((origin.picker, origin.epoch), {})[origin.n] = event.endpoints[0]
            case RequestFinished(origin, request_n) | FinishedMark(origin, request_n):
                self.by_epoch.get((origin.picker, origin.epoch), {}).pop(request_n, None)
            case OpenRequestsListed(origin, listed):
                mine = self.by_epoch.get((origin.picker, origin.epoch), {})
                keep = set(unpack(listed).tolist())
                self.by_epoch[origin.picker, origin.epoch] = {n: e for n, e in mine.items() if n in keep}
            case PickerEnded(picker, epoch):
                self.by_epoch.pop((picker, epoch), None)
            case _:
                pass

    def apply_traffic(self, marks: Sequence[Mark]) -> None:
        """Fold traffic entries that follow each other."""
        epoch, mine = -1, dict[int, int]()
        for mark in marks:
            origin = mark.origin
            if origin.epoch != epoch:
                epoch = origin.epoch
                mine = self.by_epoch.setdefault((origin.picker, epoch), {})
            # By type: to `isinstance`, a class that does not match costs a call.
            if type(mark) is RoutedMark:
                mine[origin.n] = mark.endpoints[0]
            elif type(mark) is FinishedMark:
                mine.pop(mark.request_n, None)

    def in_flight(self) -> dict[int, int]:
        """Open requests by endpoint number."""
        counts: dict[int, int] = {}
        for requests in self.by_epoch.values():
            for endpoint in requests.values():
                counts[endpoint] = counts.get(endpoint, 0) + 1
        return counts
