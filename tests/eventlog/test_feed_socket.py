"""The feed's socket in the file system."""

from pathlib import Path

import pytest
import trio

from pointsman.eventlog.feed.hub import listen_at


def test_the_socket_is_for_this_user_and_replaces_a_dead_one(tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(2):
            listener = listen_at(tmp_path / "feed.sock")
            assert (tmp_path / "feed.sock").stat().st_mode & 0o777 == 0o600
            await listener.aclose()

    trio.run(main)


def test_a_path_too_long_for_a_socket_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"has \d+ bytes, wanted at most 107"):
        listen_at(tmp_path / ("x" * 100) / "feed.sock")
