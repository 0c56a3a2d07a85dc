"""What `replay verify`, `replay explain` and the console's replay process say of one log."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from worlds.decisions import adopting_log
from worlds.system import pointsman

from pointsman.core.deciding.verdict import VerdictKind
from pointsman.web.recomputing.replayer import Replayer
from pointsman.web.recomputing.worker import NewestVerified


def explained(data: Path, request_id: str) -> Any:
    """What `replay explain` says of a request, as JSON that every reader takes."""
    found = pointsman("replay", "explain", request_id, "--data-dir", data, "--output", "json")
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    [decision] = told["decisions"]
    return decision


async def looked_at(data: Path, positions: list[int]) -> tuple[NewestVerified, list[VerdictKind | None]]:
    """What the console's strip says, and of each of these decisions its page."""
    replayer = Replayer([sys.executable, "-P", "-m", "pointsman.cli", "replay", "worker", "--data-dir", str(data)])
    found = trio.Event()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(replayer.run, lambda: True, found.set)
            await found.wait()
            answers = [await replayer.ask(position) for position in positions]
            nursery.cancel_scope.cancel()
    return replayer.newest, [answer.verdict.kind if answer else None for answer in answers]


def test_decisions_on_another_logs_state_are_told_apart_alike_by_commands_strip_and_page(tmp_path: Path) -> None:
    positions = adopting_log(tmp_path / "log")

    report = json.loads(pointsman("replay", "verify", "--data-dir", tmp_path, "--output", "json").stdout)
    newest, pages = trio.run(looked_at, tmp_path, [*positions.own, *positions.adopted])
    told = [explained(tmp_path, f"r{n}")["verdict"]["kind"] for n in (2, 6, 7, 3, 4)]

    assert (report["checked"], report["different"]) == (3, 0)
    assert report["skipped"] == {"made on the cluster state of another log": 2}
    assert newest == NewestVerified(3, 0)
    assert pages == told == ["ok", "ok", "ok", "other-log", "other-log"]


def test_positions_that_the_log_does_not_have_are_an_error(tmp_path: Path) -> None:
    adopting_log(tmp_path / "log")
    beyond = pointsman("replay", "verify", "--data-dir", tmp_path, "--from", "5000")
    backwards = pointsman("replay", "verify", "--data-dir", tmp_path, "--from", "5", "--to", "4")

    assert (beyond.returncode, backwards.returncode) == (2, 2)
    assert "--from: found position 5000, wanted one of the log, which ends with " in beyond.stderr
    assert "--to: found position 4, wanted 5 or a later one" in backwards.stderr


def test_an_explanation_can_be_read_by_programs(tmp_path: Path) -> None:
    adopting_log(tmp_path / "log")

    told = explained(tmp_path, "r7")

    explanation = told["explanation"]
    assert explanation["digest"] == told["decision"]["digest"]
    assert [candidate["waiting"] for candidate in explanation["candidates"]] == [9, 8, 7, 6, 0]
    assert [candidate["sample_age_seconds"] for candidate in explanation["candidates"]] == [0, 0, 0, 0, None]
    assert explanation["candidates"][3]["scored"]["chosen"] == 1
    assert explanation["candidates"][4]["rejection"]["reason"] == "never-sampled"
    assert explanation["why"].startswith("It had 6 requests waiting")
