"""Disks that are full, slow or read-only while requests are served, with the log alone on them or all data."""

import os
import resource
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from worlds.evidence import (
    all_is_told,
    disagreements,
    entries,
    gather,
    unaccounted,
    undecided,
    verified,
    without_one_end,
)
from worlds.load import Load
from worlds.preloaded import compiled
from worlds.system import alive, demo, serve
from worlds.waiting import wait_for

from pointsman.cluster.gateway.envoy import EnvoyMissing, find_envoy
from pointsman.core.events import Entry, FeedLost, FeedRestored, RequestRouted

pytestmark = pytest.mark.skipif(isinstance(find_envoy(), EnvoyMissing), reason="no Envoy for this machine")

RATE = 200.0
BUFFER = "128Ki"
"""Of a picker: two seconds of entries at RATE."""
STALLED = "commits have stalled"

SLOW_FSYNC = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>
static void wait_if_told(void) { const char *flag = getenv("SLOW_FSYNC"); if (flag && !access(flag, F_OK)) usleep(500000); }
int fsync(int fd) { wait_if_told(); return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd); }
int fdatasync(int fd) { wait_if_told(); return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd); }
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB for the log, and nothing else."""
    mount = tmp_path / "data" / "log"
    mount.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=12m", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    yield mount
    subprocess.run(["umount", "--lazy", str(mount)], check=True)


@contextmanager
def filled(disk: Path) -> Iterator[None]:
    """Nothing more finds room there, until the block ends."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file, suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nobody writes there, root included, not even to files that are open: as a file system that was remounted so."""
    try:
        done = subprocess.run(["chattr", "-R", "+i", str(directory)], capture_output=True, text=True, check=False)
        probe = directory / "probe"
        try:
            probe.touch()
        except OSError:
            probe = directory
        if done.returncode or (probe.exists() and probe.is_file()):
            pytest.skip(f"files cannot be made immutable here: {done.stderr.strip() or 'chattr has no effect'}")
        yield
    finally:
        subprocess.run(["chattr", "-R", "-i", str(directory)], capture_output=True, check=False)


def stalled(log: list[Entry]) -> list[FeedLost]:
    """The times that pickers heard of no commits."""
    return [e.event for e in log if isinstance(e.event, FeedLost) and e.event.cause == STALLED]


def degraded_since(log: list[Entry], load: Load, began: float, ended: float) -> tuple[int, int]:
    """Of the requests that began between these moments: how many decisions the log has, and how many are degraded."""
    meanwhile = {outcome.id for outcome in load.outcomes if began < outcome.began < ended}
    routed = [e.event for e in log if isinstance(e.event, RequestRouted) and e.event.request.request_id in meanwhile]
    return len(routed), sum(event.degraded for event in routed)


def test_on_a_full_disk_routing_goes_on_and_what_was_decided_is_recorded_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            with filled(small_disk):
                load.wait_sent(len(load.outcomes) + 1200, 30)
            load.wait_sent(len(load.outcomes) + 400, 30)
        system.stop()
    lost = stalled(entries(system.log))
    print(f"the disk was full, {len(lost)} times told; {len(load.outcomes)} requests, all answered and recorded")
    assert lost
    all_is_told(system, load)


def test_what_finds_no_room_while_the_disk_is_full_is_counted_and_told_when_there_is_room(
    tmp_path: Path, small_disk: Path
) -> None:
    with serve(tmp_path, "--buffer-max", BUFFER) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            with filled(small_disk):
                load.wait_sent(len(load.outcomes) + 1600, 30)
            load.wait_sent(len(load.outcomes) + 600, 30)
        system.stop()
    log = entries(system.log)
    found = gather(log, system.request_log, system.access_log)
    report = verified(system.data)
    missing = undecided(found)
    print(
        f"{len(load.outcomes)} requests, all answered; {len(missing)} decisions and {found.entries_lost - len(missing)}"
        f" other entries found no room and are told in {len(found.lost)} entries; {report['checked']} decisions the same"
    )

    assert load.broken() == []
    assert stalled(log)
    assert 400 < len(missing) < 2000
    assert len(missing) < found.entries_lost <= 3 * len(missing) + 100
    assert found.refused.total() == 0
    assert disagreements(found) == []
    assert without_one_end(found) == []
    assert unaccounted(found) == []
    assert report["skipped"] == {}
    assert report["checked"] == len(found.decided) == len(load.outcomes) - len(missing)


def test_with_the_log_read_only_routing_goes_on_degraded_and_all_of_it_is_recorded_when_it_may_be_written(
    tmp_path: Path,
) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            with read_only(system.log):
                began = time.monotonic()
                load.wait_sent(len(load.outcomes) + 1200, 30)
                ended = time.monotonic()
            load.wait_sent(len(load.outcomes) + 600, 30)
        system.stop()
    log = entries(system.log)
    decided, degraded = degraded_since(log, load, began + 1.0, ended - 0.1)
    # SQLite maps a file of the log: its first write there ends the process by SIGBUS, or commits just fail.
    print(f"read-only for {ended - began:.1f} s: {len(load.outcomes)} requests, {degraded} of {decided} degraded")
    assert decided == degraded > 600
    assert [type(e.event) for e in log if isinstance(e.event, FeedLost | FeedRestored)] == [FeedLost, FeedRestored]
    all_is_told(system, load)


def test_with_a_slow_disk_routing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, flag = tmp_path / "slow.c", tmp_path / "slow"
    source.write_text(SLOW_FSYNC)
    monkeypatch.setenv("LD_PRELOAD", str(compiled(source, tmp_path)))
    monkeypatch.setenv("SLOW_FSYNC", str(flag))
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            flag.touch()
            load.wait_sent(len(load.outcomes) + 1200, 30)
            flag.unlink()
            load.wait_sent(len(load.outcomes) + 300, 30)
        system.stop()
    batches = len({entry.recorded_at for entry in entries(system.log)})
    slow = sorted(o.ended - o.began for o in load.outcomes)[len(load.outcomes) // 2]
    print(
        f"fsync took 500 ms: {len(load.outcomes)} requests in {batches} batches, half of them within {slow * 1000:.0f} ms"
    )
    assert slow < 0.4, "nobody waits for the disk"
    all_is_told(system, load)


@pytest.fixture
def data_on_a_small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system for all data; what the witnesses write lies elsewhere."""
    mount, witnesses = tmp_path / "data", tmp_path / "witnesses"
    mount.mkdir(parents=True)
    witnesses.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    (mount / "logs").symlink_to(witnesses)
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_with_all_data_on_a_full_disk_no_process_ends_and_everything_is_recorded_when_there_is_room(
    tmp_path: Path, data_on_a_small_disk: Path
) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            before = system.pids()
            with filled(data_on_a_small_disk):
                load.wait_sent(len(load.outcomes) + 2000, 30)
            load.wait_sent(len(load.outcomes) + 600, 30)
            assert system.pids() == before
        system.stop()
    lost = stalled(entries(system.log))
    print(f"the disk was full, {len(lost)} times told; {len(load.outcomes)} requests, all answered and recorded")
    all_is_told(system, load)


@contextmanager
def read_only_for_new_files(directory: Path) -> Iterator[None]:
    """What is opened there from here on cannot be written; what is open already can."""
    if os.geteuid() != 0 or subprocess.run(["mount", "--bind", directory, directory], check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(directory)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_picker_killed_while_the_data_directory_is_read_only_is_back(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            with read_only_for_new_files(system.data):
                system.kill("picker")
                killed = time.monotonic()
                load.wait_sent(len(load.outcomes) + 600, 30)
            load.wait_sent(len(load.outcomes) + 200, 30)
        system.stop()
    broken = load.broken()
    print(f"{len(broken)} of {len(load.outcomes)} requests broke, all open at the kill")

    assert [outcome for outcome in broken if outcome.began > killed] == []
    found = gather(entries(system.log), system.request_log, system.access_log)
    assert found.refused.total() == 0
    assert disagreements(found) == []
    assert undecided(found) == []
    assert without_one_end(found) == []
    assert unaccounted(found) == []
    assert verified(system.data)["skipped"] == {}


def test_on_a_full_disk_the_end_comes_in_time(tmp_path: Path, small_disk: Path) -> None:
    with demo(tmp_path) as system, Load(system.gateway, RATE) as load:
        load.wait_sent(200, 20)
        with filled(small_disk):
            load.wait_sent(len(load.outcomes) + 400, 30)
            control = system.pids()["control"]
            system.process.kill()
            wait_for(lambda: not alive(control), 10, "the end of the control process")


def test_with_every_write_of_the_control_process_refused_it_goes_on(tmp_path: Path) -> None:
    with demo(tmp_path) as system:
        with Load(system.gateway, RATE) as load:
            load.wait_sent(200, 20)
            before = system.pids()
            old = resource.prlimit(before["control"], resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            load.wait_sent(len(load.outcomes) + 1200, 30)
            resource.prlimit(before["control"], resource.RLIMIT_FSIZE, old)
            load.wait_sent(len(load.outcomes) + 600, 30)
            assert system.pids() == before
        system.stop()
    assert stalled(entries(system.log))
    all_is_told(system, load)
