"""An open log, whichever store holds it."""

from collections.abc import Callable
from pathlib import Path

from pointsman.core.events import Class, LogCreated, encode
from pointsman.core.state.open_requests import OpenRequests
from pointsman.core.state.projection import ClusterState
from pointsman.eventlog.stores.reading import LogHead
from pointsman.eventlog.stores.recovery import Recovered
from pointsman.eventlog.stores.writing import LogStore, StoreLimits


class Log:
    """An open log: held, recovered, and folded up to its head.

    The appender moves `head` and the projection on; everything here belongs to the Trio thread, but for `store`,
    which is the writer thread's while an appender runs.
    """

    def __init__(
        self, directory: Path, store: LogStore, recovered: Recovered, limits: StoreLimits, release: Callable[[], None]
    ) -> None:
        self.directory = directory
        self.limits = limits
        self.log_id = recovered.meta.log_id
        self.head = recovered.head
        self.projection = recovered.projection
        self.folded = recovered.folded
        """Count of entries that opening folded."""
        self.created = False
        """Whether this opening created it."""
        self.store = store
        self._release = release

    @property
    def state(self) -> ClusterState:
        """The cluster state at `head`."""
        return self.projection.cluster

    @property
    def open_requests(self) -> OpenRequests:
        """The routed requests without an end at `head`."""
        return self.projection.open_requests

    def close(self) -> None:
        """Close the store, and let others open the log; an appender must have ended before."""
        self.store.disconnect()
        self._release()


def append_first(log: Log, build: str) -> None:
    """Write the entry that a new log begins with, before there is an appender."""
    event = LogCreated(log.log_id, build)
    prepared = log.store.prepare([int(Class.CONTROL)], [encode(event)])
    log.store.write(prepared)
    batch = prepared.batch
    log.head = LogHead(batch.last, batch.digest, batch.recorded_at)
    log.projection.apply_batch(batch.first, prepared.kinds, [event])
    log.projection.totals.count(Class.CONTROL, batch.recorded_at, 1, prepared.body_bytes)
    log.created = True
