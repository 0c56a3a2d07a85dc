"""Requests that were routed and have no end yet, as the entries of the log tell.

A routed request ends in one of three ways: by its own `RequestFinished`; because its picker process comes back from an
overflow and lists which requests it still has (`OpenRequestsListed`); or because its picker process ended (`PickerEnded`).
Whoever folds traffic keeps something of its own for each open request, so the rules stand here once, for any value:
the chosen endpoint, a row of the read model, a series of `/metrics`, a place in the traffic state.
"""

from collections.abc import Sequence
from typing import Generic, TypeVar

from pointsman.core.events import Event, OpenRequestsListed, PickerEnded, RequestFinished, RequestRouted
from pointsman.core.state.marks import FinishedMark, Mark, RoutedMark
from pointsman.core.state.membership import EpochKey
from pointsman.core.values.packing import unpack

Value = TypeVar("Value")


class OpenByEpoch(Generic[Value]):
    """A value for each open request, by epoch and by the `n` of its decision.

    The entries of one epoch mostly follow each other, so a fold takes `of(epoch)` once for a run of them and changes the
    dictionary itself.  A generator that gave each entry its dictionary would cost 0.04 µs an entry more, and with three
    entries a request in three folds one per cent of what the control process spends on a request.
    """

    def __init__(self) -> None:
        self.by_epoch: dict[EpochKey, dict[int, Value]] = {}

    def of(self, epoch: EpochKey) -> dict[int, Value]:
        """The open requests of an epoch, to be changed by whoever folds its entries."""
        return self.by_epoch.setdefault(epoch, {})

    def take_ended(self, event: Event | Mark) -> list[tuple[int, Value]]:
        """Remove what `event` ends without an end of its own, and return it with its numbers, oldest first."""
        match event:
            case OpenRequestsListed(origin, listed):
                mine = self.by_epoch.get((origin.picker, origin.epoch), {})
                kept = set(unpack(listed).tolist())
                return [(n, mine.pop(n)) for n in [n for n in mine if n not in kept]]
            case PickerEnded(picker, epoch):
                return list(self.by_epoch.pop((picker, epoch), {}).items())
            case _:
                return []


class OpenRequests(OpenByEpoch[int]):
    """The endpoint number of each open request of every epoch, folded from committed entries.

    Beside the cluster state, because decisions do not depend on it: in-flight counts are traffic state.
    The control process closes requests with it, and tells a picker those of other epochs.
    """

    def apply_event(self, event: Event | Mark) -> None:
        """Fold one event, whole or as its mark."""
        match event:
            case RequestRouted(origin) | RoutedMark(origin):
                self.of((origin.picker, origin.epoch))[origin.n] = event.endpoints[0]
            case RequestFinished(origin, request_n) | FinishedMark(origin, request_n):
                self.of((origin.picker, origin.epoch)).pop(request_n, None)
            case _:
                self.take_ended(event)

    def apply_traffic(self, marks: Sequence[Mark]) -> None:
        """Fold traffic entries that follow each other."""
        epoch, mine = -1, dict[int, int]()
        for mark in marks:
            origin = mark.origin
            if origin.epoch != epoch:
                epoch = origin.epoch
                mine = self.of((origin.picker, epoch))
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
