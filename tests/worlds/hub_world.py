"""A control process's end of the feed within a test, over a real log, and pickers that are read when the test says so."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from worlds.feed_world import members, new_picker

from pointsman.core.feed.picker_end import PickerEnd
from pointsman.core.feed.tail import Tail
from pointsman.eventlog.appender import Appender
from pointsman.eventlog.feed.hub import FeedHub, listen_at, serve_feed
from pointsman.eventlog.opening import open_log, open_reader
from pointsman.eventlog.stores.writing import StoreLimits

KEY = ("picker-0", 7)


class World:
    """A control process within the test."""

    def __init__(self, path: Path, limits: StoreLimits, tail_commits: int) -> None:
        self.path = path
        self.log = open_log(path / "log", "test", limits)
        self.appender = Appender(self.log, lambda commit: self.hub.publish(commit))
        self.hub = FeedHub.over(self.log, self.appender)
        if tail_commits:
            self.hub.feed.tail = Tail(self.log.head.position, self.log.head.digest, commits_max=tail_commits)

    def events(self, *kinds: type) -> list[object]:
        with open_reader(self.path / "log") as reader:
            return [entry.event for entry in reader.entries(1) if isinstance(entry.event, kinds)]


@asynccontextmanager
async def control(path: Path, limits: StoreLimits | None = None, tail_commits: int = 0) -> AsyncIterator[World]:
    world = World(path, limits or StoreLimits(), tail_commits)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(world.appender.run)
            if not world.log.state.endpoints:
                await world.appender.append_many(members(3))
            nursery.start_soon(serve_feed, world.hub, listen_at(path / "feed.sock"))
            with trio.fail_after(20):
                yield world
            nursery.cancel_scope.cancel()
    finally:
        world.log.close()


class Picker:
    """A picker's end on a blocking socket of its own, read only when the test says so."""

    def __init__(self, path: Path, epoch: int = 7) -> None:
        self.path = path
        self.end, self.traffic = new_picker("picker-0", epoch)
        self.socket: trio.socket.SocketType | None = None

    async def connect(self) -> None:
        self.socket = trio.socket.socket(socket.AF_UNIX)
        await self.socket.connect(str(self.path / "feed.sock"))
        self.end.connected(trio.current_time())

    async def send(self) -> None:
        assert self.socket is not None
        while data := self.end.data_to_send():
            view = memoryview(data)
            while view:
                view = view[await self.socket.send(view) :]

    async def read_until(self, done: Callable[[PickerEnd], bool]) -> None:
        """Exchange what there is until the picker is as wanted; False at the end of the connection."""
        assert self.socket is not None
        await self.send()
        while not done(self.end):
            data = await self.socket.recv(1 << 16)
            assert data, "the connection ended"
            self.end.receive(data, trio.current_time(), 1000.0)
            while self.end.warmer.pending:
                self.end.warm()
            await self.send()

    async def read_to_the_end(self) -> None:
        assert self.socket is not None
        while data := await self.socket.recv(1 << 16):
            self.end.receive(data, trio.current_time(), 1000.0)

    def close(self) -> None:
        assert self.socket is not None
        self.socket.close()
        self.end.disconnected(trio.current_time(), 1000.0)


def settled(end: PickerEnd) -> bool:
    return end.cluster is not None and not len(end.buffer)


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main)
