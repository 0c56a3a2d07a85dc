"""The newest commits, in memory, for whoever follows the log closely."""

from bisect import bisect_left

from pointsman.core.events import Entry
from pointsman.eventlog.store import Commit


class Tail:
    """The last commits, bounded in bytes of bodies and in entries; the newest commit is always there."""

    def __init__(self, head: int, bytes_max: int, events_max: int) -> None:
        self._bytes_max = bytes_max
        self._events_max = events_max
        self._commits: list[Commit] = []
        self._sizes: list[int] = []
        self._start = 0
        self._bytes = 0
        self._head = head

    @property
    def first(self) -> int:
        """The first position that is kept; the one after the head where none is."""
        return self._commits[self._start].first if self._start < len(self._commits) else self._head + 1

    def add(self, commit: Commit, body_bytes: int) -> None:
        """Keep the next commit, and let go of the oldest ones that the bounds leave no room for."""
        self._commits.append(commit)
        self._sizes.append(body_bytes)
        self._bytes += body_bytes
        self._head = commit.last
        while self._start < len(self._commits) - 1 and (
            self._bytes > self._bytes_max or commit.last - self.first >= self._events_max
        ):
            self._bytes -= self._sizes[self._start]
            self._commits[self._start] = commit  # lets the old one go before the list is compacted
            self._start += 1
        if self._start > 1024 and self._start * 2 > len(self._commits):
            del self._commits[: self._start], self._sizes[: self._start]
            self._start = 0

    def between(self, first: int, last: int) -> list[Entry]:
        """The kept entries `first` to `last`."""
        found: list[Entry] = []
        for index in range(self._find(first), len(self._commits)):
            commit = self._commits[index]
            if commit.first > last:
                break
            found.extend(commit.entries[max(first - commit.first, 0) : last - commit.first + 1])
        return found

    def commits_after(self, position: int) -> list[Commit]:
        """The kept commits that end after `position`."""
        return self._commits[self._find(position + 1) :]

    def digest_at(self, position: int) -> bytes | None:
        """The digest of the kept batch that ends at `position`."""
        at = self._find(position)
        if at < len(self._commits) and self._commits[at].last == position:
            return self._commits[at].digest
        return None

    def _find(self, position: int) -> int:
        return bisect_left(self._commits, position, lo=self._start, key=lambda commit: commit.last)
