"""What the log tells of the epochs of picker processes: which build decided, and what was decided on another log.

A picker decides before the entry that tells of its start is committed, so the cluster state at a decision's `applied`
need not know its epoch.  The entries that tell are control entries and stand before the decisions they are about.
"""

from pointsman.core.events import Class, EntriesAdopted, Origin, PickerStarted
from pointsman.core.state.membership import Epoch, EpochKey
from pointsman.eventlog.errors import NotKeptError
from pointsman.eventlog.stores.reading import LogReader


class EpochRegister:
    """The epochs of one log, as far as they were read."""

    def __init__(self, reader: LogReader) -> None:
        self._reader = reader
        self._next = 0
        """First position that was not looked at; 0 before the first look."""
        self._epochs: dict[EpochKey, Epoch] = {}
        self._adopted: dict[EpochKey, list[tuple[int, int]]] = {}
        """First and last `n` of each run of entries that was decided on another log."""

    def read_to(self, position: int) -> None:
        """Take in what the log tells up to `position`; the index of control entries makes that a few rows."""
        if not self._next:
            self._begin()
        for entry in self._reader.entries(self._next, position, (Class.CONTROL,)):
            match entry.event:
                case PickerStarted(origin, build, scheduler, plugins):
                    name = (origin.picker, origin.epoch)
                    self._epochs[name] = Epoch(*name, origin.n, build, scheduler, plugins)
                case EntriesAdopted(picker, epoch, first, last):
                    self._adopted.setdefault((picker, epoch), []).append((first, last))
                case _:
                    pass
        self._next = max(self._next, position + 1)

    def _begin(self) -> None:
        """Start with the epochs that were open where the kept part of the log begins."""
        self._next = self._reader.first()
        try:
            epochs = self._reader.projection_before(self._next - 1).cluster.epochs
        except NotKeptError:
            return  # what a log without a snapshot at its beginning cannot tell is not known
        for name, epoch in epochs.items():
            self._epochs[name] = epoch
            if epoch.adopted_to > epoch.highest_n:  # the rest of them follow
                self._adopted[name] = [(epoch.highest_n + 1, epoch.adopted_to)]

    def epoch(self, origin: Origin) -> Epoch | None:
        """The epoch of an entry with its build; None where the log does not tell."""
        return self._epochs.get((origin.picker, origin.epoch))

    def adopted(self, origin: Origin) -> bool:
        """Whether an entry's `applied` is a position of another log."""
        runs = self._adopted.get((origin.picker, origin.epoch), ())
        return any(first <= origin.n <= last for first, last in runs)
