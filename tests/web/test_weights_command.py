"""`pointsman weights set`, asked of a running console."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from worlds.console_world import NEW, OLD, ROUTE, Running, events_of, running

from pointsman.cli.main import main
from pointsman.cli.supervising.console_place import url_file
from pointsman.core.events import BackendRef, RouteObserved, RouteRule, WeightsIntended
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal

NAME = OLD.partition("/")[2]
KEY = f"inference.networking.k8s.io/InferencePool/{OLD}"


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path, 3) as found:
        place = url_file(tmp_path)
        place.parent.mkdir()
        place.write_text(found.url + "\n")
        yield found


def ask(console: Running, *words: str) -> int:
    data = str(console.world.home)
    return main(["weights", "set", "--route", ROUTE, "--data-dir", data, "--reason", "by hand", *words])


@pytest.mark.parametrize("name", [NAME, OLD, KEY])
def test_a_weight_is_changed_and_shown_before_and_after(
    console: Running, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert ask(console, f"{name}=30") == 0

    told = capsys.readouterr()
    assert told.out.splitlines() == [
        "llm-route, rule 1: recorded, written and read back",
        f"  {NAME}: 90 → 30",
        f"  {NAME}-new: 10",
    ]
    assert told.err == ""
    assert [b.weight for b in console.world.state.routes[ROUTE].rules[0].backends] == [30, 10]
    [intent] = [e for e in events_of(console.world.appender) if isinstance(e, WeightsIntended)]
    assert intent.reason == "by hand"


def test_programs_read_the_outcome_as_json(console: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(console, f"{NAME}=30", f"{NAME}-new=70", "--output", "json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["outcome"] == "done"
    assert [(b["pool"], b["before"], b["after"]) for b in told["backends"]] == [(OLD, 90, 30), (NEW, 10, 70)]

    assert ask(console, f"{NAME}=30", "--output", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["outcome"], told["code"]) == ("refused", "unchanged")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([f"{NAME}=90"], 1, "not changed: these are the weights already, wanted at least one that differs"),
        ([f"{NAME}=0", f"{NAME}-new=0"], 2, "wanted at least one above 0"),
        ([f"{NAME}=50", "--reason", "x"], 2, "wanted 3 to 500 that can be read"),
        (["other=50"], 1, f"found no backend other in the rule, wanted one of {OLD}, {NEW}"),
        ([f"{NAME}=50", f"{OLD}=40"], 2, f"found {OLD} twice"),
        ([f"{NAME}=50", "--rule", "8"], 1, "The route has 1 rule, wanted number 8."),
    ],
)
def test_what_is_not_changed_is_told_in_one_line(
    console: Running, capsys: pytest.CaptureFixture[str], words: list[str], code: int, said: str
) -> None:
    assert ask(console, *words) == code

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert said in told.err
    assert console.world.written == []


def test_a_file_that_cannot_be_written_is_told(console: Running, capsys: pytest.CaptureFixture[str]) -> None:
    console.world.refuse_writes = ChangeRefusal(ChangeCode.NOT_WRITTEN, "the disk is full", "room on it")

    assert ask(console, f"{NAME}=50") == 1
    assert capsys.readouterr().err == "pointsman: not changed: the disk is full, wanted room on it\n"


def test_a_name_that_two_backends_have_is_not_guessed(console: Running, capsys: pytest.CaptureFixture[str]) -> None:
    async def observe() -> None:
        backends = (BackendRef(OLD, 1), BackendRef(OLD, 2, "Service", ""))
        await console.world.appender.append(RouteObserved(ROUTE, (RouteRule((), backends),), version="v2"))

    console.call(observe)

    assert ask(console, f"{NAME}=50") == 2
    assert f"{NAME} is the name of 2 backends, wanted one of {KEY}, /Service/{OLD}" in capsys.readouterr().err


def test_without_a_console_nothing_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["weights", "set", "--route", ROUTE, "--reason", "why", "--data-dir", str(tmp_path), "a=1"]

    assert main(words) == 1
    assert "found no running console" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["a", "a=", "=1", "a=-1", "a=1.5", "a=1000001", "a=x"])
def test_words_that_are_no_weight_are_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["weights", "set", "--route", ROUTE, "--reason", "why", word])

    assert ended.value.code == 2
    assert "wanted POOL=WEIGHT with a weight of 0 to 1,000,000" in capsys.readouterr().err
