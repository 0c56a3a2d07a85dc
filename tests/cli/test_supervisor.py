"""The supervisor over real processes: what ends is started again, and nothing outlives it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from worlds.system import alive
from worlds.waiting import wait_for

from pointsman.cli.supervising.child import Child, ChildPlan, Role
from pointsman.cli.supervising.loop_watch import LoopWatch
from pointsman.core.processes.last_page import PAGE_BYTES, LastPage, begin_page, read_mark, write_turns
from pointsman.core.processes.leash import Drain, ProcessGone, Stop, encode

PROGRAM = """
import sys
from pathlib import Path
from pointsman.cli.supervising.child import ChildPlan, Role
from pointsman.cli.supervising.supervisor import Listening, Supervisor

home = Path(sys.argv[1])

def child(name, role, code):
    return ChildPlan(name, role, (sys.executable, "-c", code, str(home / name)), log=str(home / f"{name}.log"))

SAY_AND_WAIT = '''
import os, sys, time
open(sys.argv[1], "a").write(f"{os.getpid()} ")
print("the last words of", os.getpid(), flush=True)
time.sleep(60)
'''
OBEY = '''
import os, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "a").write(f"{os.getpid()} ")
leash = socket.socket(fileno=int(os.environ["POINTSMAN_LEASH"]))
heard = open(sys.argv[1] + ".heard", "ab", buffering=0)
leash.sendall(b'{"type":"ready"}\\\\n')
while data := leash.recv(65536):
    heard.write(data)
    if b'"stop"' in data:
        break
'''
STUBBORN = OBEY.replace('if b\\'"stop"\\' in data:', 'if False:')
plans = [
    child("gateway", Role.GATEWAY, SAY_AND_WAIT),
    child("control", Role.CONTROL, OBEY),
    child("picker", Role.PICKER, STUBBORN if "stubborn" in sys.argv else OBEY),
]
supervisor = Supervisor(plans, Listening(), 0.0, lambda line: print(line, flush=True))
sys.exit(supervisor.run(lambda ports: print("up", flush=True)))
"""

NAMES = ("gateway", "control", "picker")


@contextmanager
def supervised(home: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    with open(home / "output", "w") as output:
        process = subprocess.Popen([sys.executable, "-P", "-c", PROGRAM, str(home), *words], stdout=output, text=True)
        try:
            wait_for(lambda: "up" in (home / "output").read_text())
            yield process
        finally:
            process.kill()
            process.wait()


def lives(home: Path, name: str) -> list[int]:
    return [int(pid) for pid in (home / name).read_text().split()]


def test_whatever_is_killed_is_back_within_two_seconds(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        for name in NAMES:
            [first] = lives(tmp_path, name)
            os.kill(first, signal.SIGKILL)
            took = wait_for(lambda name=name: len(lives(tmp_path, name)) == 2)  # type: ignore[misc]

            assert took < 2.0
            assert alive(lives(tmp_path, name)[1])
        assert process.poll() is None


def test_a_process_that_keeps_crashing_is_started_again_each_time(tmp_path: Path) -> None:
    with supervised(tmp_path):
        for count in range(1, 7):
            os.kill(lives(tmp_path, "gateway")[-1], signal.SIGKILL)
            wait_for(lambda count=count: len(lives(tmp_path, "gateway")) == count + 1)  # type: ignore[misc]


def test_however_often_it_crashes_the_next_start_is_due_well_within_two_seconds() -> None:
    child = Child(ChildPlan("crasher", Role.SERVER, (sys.executable, "-c", "")))
    for life in range(8):
        now = 0.1 * life
        child.start(now)
        assert child.process is not None
        _, status = os.waitpid(child.pid, 0)
        child.ended(status, now)

        assert child.may_start(now + 1.0)
    assert not child.may_start(now)


def test_each_life_of_a_picker_begins_with_an_empty_page() -> None:
    page = os.memfd_create("page")
    code = f"""
from pathlib import Path
from pointsman.core.processes.last_page import PAGE_BYTES, begin_page
said = bytearray(PAGE_BYTES)
begin_page(said, 7)
Path("/proc/self/fd/{page}").write_bytes(said)
"""
    command = (sys.executable, "-P", "-c", code)
    child = Child(ChildPlan("picker", Role.PICKER, command, inherits=(page,), page=page))
    for life in range(2):
        child.start(float(life))
        assert child.last_page() is None
        child.ended(os.waitpid(child.pid, 0)[1], float(life))
        assert child.last_page() == LastPage(7, 0)
    os.close(page)


def test_where_its_output_cannot_be_written_a_process_is_started_all_the_same(tmp_path: Path) -> None:
    child = Child(ChildPlan("picker", Role.PICKER, (sys.executable, "-c", ""), log=str(tmp_path / "missing" / "log")))
    child.start(0.0)
    cause = child.ended(os.waitpid(child.pid, 0)[1], 0.0)

    assert cause == "exit code 0"
    assert child.last_lines() == []


def test_the_last_lines_of_a_crash_are_shown(tmp_path: Path) -> None:
    with supervised(tmp_path):
        [pid] = lives(tmp_path, "gateway")
        os.kill(pid, signal.SIGABRT)
        wait_for(lambda: len(lives(tmp_path, "gateway")) == 2)

        text = (tmp_path / "output").read_text()
        assert f"gateway (process {pid}) ended with signal SIGABRT" in text
        assert f"gateway | the last words of {pid}" in text


def test_a_signal_ends_everything_in_order(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        home = tmp_path / str(number)
        home.mkdir()
        with supervised(home) as process:
            pids = [pid for name in NAMES for pid in lives(home, name)]
            process.send_signal(number)
            code = process.wait(10)

            assert code == 0
            assert not any(alive(pid) for pid in pids)
            assert encode(Drain(0.0)) + encode(Stop(4.0)) in (home / "picker.heard").read_bytes()
            assert encode(Stop(4.0)) in (home / "control.heard").read_bytes()


def test_a_second_signal_ends_what_does_not_listen(tmp_path: Path) -> None:
    with supervised(tmp_path, "stubborn") as process:
        pids = [pid for name in NAMES for pid in lives(tmp_path, name)]
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: b"stop" in (tmp_path / "picker.heard").read_bytes())
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        process.wait(4)

        assert not any(alive(pid) for pid in pids)


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path) as process:
        pids = [pid for name in NAMES for pid in lives(tmp_path, name)]
        process.kill()
        process.wait()

        wait_for(lambda: not any(alive(pid) for pid in pids), within=2.0)


def test_what_ends_together_with_the_control_process_is_told_to_the_next_one(tmp_path: Path) -> None:
    with supervised(tmp_path):
        [gateway], [control] = lives(tmp_path, "gateway"), lives(tmp_path, "control")
        os.kill(control, signal.SIGKILL)
        os.kill(gateway, signal.SIGKILL)
        wait_for(lambda: all(len(lives(tmp_path, name)) == 2 for name in ("gateway", "control")))

        line = encode(ProcessGone("gateway", gateway, "signal SIGKILL"))
        wait_for(lambda: line in (tmp_path / "control.heard").read_bytes())


def test_the_control_process_hears_of_lives_and_deaths(tmp_path: Path) -> None:
    with supervised(tmp_path):
        [picker] = lives(tmp_path, "picker")
        os.kill(picker, signal.SIGKILL)
        wait_for(lambda: b"picker_ended" in (tmp_path / "control.heard").read_bytes())

        heard = (tmp_path / "control.heard").read_text()
        assert '{"type":"pickers","alive":[' in heard
        assert f'"pid":{picker},"cause":"signal SIGKILL"' in heard


def delays(plan: ChildPlan, count: int, seconds: float) -> list[float]:
    """The seconds that a child has to wait after each of its lives, which last so many seconds of a clock of our own."""
    child, found, now = Child(plan), [], 0.0
    for _ in range(count):
        child.start(now)
        _, status = os.waitpid(child.pid, 0)
        now += seconds
        child.ended(status, now)
        found.append(round(child.start_after - now, 3))
        now = child.start_after
    return found


def test_a_start_that_fails_each_time_is_tried_less_and_less_often() -> None:
    def plan(role: Role, code: str) -> ChildPlan:
        return ChildPlan("x", role, (sys.executable, "-S", "-c", code))

    fails = "raise SystemExit(3)"
    assert delays(plan(Role.CONTROL, fails), 9, 8.0) == [0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 30.0, 30.0]
    assert delays(plan(Role.GATEWAY, fails), 3, 1.0) == [0.1, 0.5, 1.0]
    assert delays(plan(Role.GATEWAY, fails), 3, 8.0) == [0.0, 0.0, 0.0]
    killed = "import os; os.kill(os.getpid(), 9)"
    assert delays(plan(Role.CONTROL, killed), 6, 1.0) == [0.1, 0.2, 0.4, 0.6, 0.6, 0.6]


HANGS = """
import os, socket, sys, time
from pathlib import Path
from pointsman.core.processes.last_page import begin_page, take_in_hand, write_turns
import mmap, signal
signal.signal(signal.SIGUSR2, lambda *_: None)
home = Path(sys.argv[1])
open(home, "a").write(f"{os.getpid()} ")
leash = socket.socket(fileno=int(os.environ["POINTSMAN_LEASH"]))
leash.sendall(b'{"type":"ready"}\\n')
page = memoryview(mmap.mmap(int(sys.argv[2]), 256))
begin_page(page, 7)
for turn in range(1, 10):
    write_turns(page, turn)
    time.sleep(0.1)
take_in_hand(page, "'r-1', '/v1/chat/completions', 7000 bytes")
while "stands" in sys.argv:
    time.sleep(60)
while True:
    pass
"""


def hanging(home: Path, page: int, *words: str) -> Child:
    command = (sys.executable, "-c", HANGS, str(home / "picker"), str(page), *words)
    plan = ChildPlan("picker", Role.PICKER, command, inherits=(page,), page=page, hung_after=2.0)
    child = Child(plan)
    child.start(time.monotonic())
    return child


@pytest.mark.parametrize("words", [(), ("stands",)])
def test_a_picker_whose_loop_does_not_turn_is_ended_and_its_request_named(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    page = os.memfd_create("page")
    child = hanging(tmp_path, page, *words)

    wait_for(child.hung, 30)
    os.kill(child.pid, signal.SIGKILL)
    _, status = os.waitpid(child.pid, 0)
    cause = child.ended(status, time.monotonic())
    os.close(page)

    assert cause == (
        "signal SIGKILL: its loop has not turned for 2 s, with this request in hand: "
        "'r-1', '/v1/chat/completions', 7000 bytes"
    )


def test_a_picker_that_is_stopped_is_not_taken_for_one_that_hangs(tmp_path: Path) -> None:
    page = os.memfd_create("page")
    child = hanging(tmp_path, page, "stands")
    wait_for(lambda: read_mark(os.pread(page, PAGE_BYTES, 0)).turns, 20)
    os.kill(child.pid, signal.SIGSTOP)
    try:
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            assert not child.hung()
            time.sleep(0.05)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.ended(os.waitpid(child.pid, 0)[1], time.monotonic())
        os.close(page)


def test_time_in_which_the_supervisor_did_not_look_is_not_counted() -> None:
    page = bytearray(PAGE_BYTES)
    begin_page(page, 7)
    write_turns(page, 1)
    watch = LoopWatch(5.0)

    assert [watch.look(0, bytes(page), now) for now in (10.0, 3610.0, 7210.0)] == ["", "", ""]
    assert not LoopWatch(0.0).look(0, bytes(page), 1e9), "no limit"
