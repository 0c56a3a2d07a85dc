"""Keeping the log within its limits while it is written."""

import shutil
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import trio

from pointsman.core.events import SegmentDropped
from pointsman.core.processes.settings import KeepLimits
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.errors import LogCorruptError, LogFullError, NotKeptError, StoreRefusedError
from pointsman.eventlog.opening import drop_segment, open_reader
from pointsman.eventlog.stores.archive import FOLDER
from pointsman.eventlog.stores.retention import Due, Kept, archive, due, leftovers, look

LOOK = 10.0
"""Seconds between two looks: a log at its fastest grows by half a segment meanwhile."""

_TROUBLE = (LogFullError, LogCorruptError, NotKeptError, StoreRefusedError, OSError)


class Retention:
    """Drops segments that `keep` does not cover, of the log that `appender` writes."""

    def __init__(self, keep: KeepLimits, appender: Appender, read_model: Path, tell: Callable[[str], None]) -> None:
        self.keep = keep
        self.kept: Kept | None = None
        """What was found at the last look."""
        self._appender = appender
        self._directory = appender.log.directory
        self._read_model = read_model
        self._tell = tell
        self._trouble = ""
        self._resumed = False
        """Whether what an earlier process left undone is done."""

    async def run(self) -> None:
        """Look and drop for ever; trouble is told once, and tried again."""
        while True:
            try:
                await self.once()
                self._trouble = ""
            except _TROUBLE as error:
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self._tell(f"the log cannot be kept within its limits: {error}")
            await trio.sleep(LOOK)

    async def once(self) -> None:
        """Look once, and drop what is due."""
        if not self._resumed:
            await trio.to_thread.run_sync(self._finish)
            self._resumed = True
        await self._drop_due()

    def _finish(self) -> None:
        """Delete what was to go when the process ended."""
        with closing(open_reader(self._directory)) as reader:
            for first in leftovers(reader):
                drop_segment(self._directory, first)

    async def _drop_due(self) -> None:
        self.kept = found = await trio.to_thread.run_sync(self._look)
        for going in due(found.space, self.keep, time.time()):
            drop = await trio.to_thread.run_sync(self._archive, going)
            await self._appender.append(drop)
            await trio.to_thread.run_sync(drop_segment, self._directory, drop.first)
            self.kept = await trio.to_thread.run_sync(self._look)

    def _look(self) -> Kept:
        with closing(open_reader(self._directory)) as reader:
            space = look(reader, bytes_beside(self._directory, self._read_model))
        return Kept(self.keep, space, shutil.disk_usage(self._directory).free)

    def _archive(self, going: Due) -> SegmentDropped:
        with closing(open_reader(self._directory)) as reader:
            return archive(reader, going)


def bytes_beside(log: Path, read_model: Path) -> int:
    """Bytes of what grows with the log in `log` beside its segments: its archive, and the read model."""
    paths = [*(log / FOLDER).glob("*"), *read_model.parent.glob(read_model.name + "*")]
    return sum(path.stat().st_size for path in paths if path.is_file())
