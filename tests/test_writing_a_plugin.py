"""`docs/writing-a-plugin.md`, done as it says in a copy of the tree."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/writing-a-plugin.md").read_text()
FOLDERS = ("cli", "cluster", "core", "eventlog", "grpc", "web")

DECIDED = """
from pathlib import Path
from worlds.configured import parsed
from worlds.logs import write
from worlds.strategies import EPOCH, PICKER, POOL, Readings, in_force, pool_of, started
from pointsman.core.deciding.scheduler import profile_in_force, schedule
from pointsman.core.events import Origin, RequestFacts
from pointsman.core.values.draws import Draws
from pointsman.eventlog.opening import open_reader

data = Path("data/log")
write(data, [started(), *pool_of([3, 0]), in_force(parsed(Path("waiting.yaml").read_text()))])
with open_reader(data) as reader:
    applied = reader.head().position
    cluster = reader.state_at(applied)
request = RequestFacts("REQUEST-ID", POOL)
decision = schedule(cluster, Readings(), profile_in_force(cluster, POOL), request, Draws(PICKER, EPOCH, 2))
write(data, [decision.to_event(Origin(PICKER, EPOCH, 2, applied), 1.7e9, request, 20)])
"""


def block(before: str) -> str:
    """The code block that follows these words."""
    found = re.search(re.escape(before) + r"\n\n```\w+\n(.*?)```\n", PAGE, re.DOTALL)
    assert found is not None, before
    return found[1]


def console(command: str) -> list[str]:
    """What the page shows that a command prints."""
    found = re.search(r"```console\n\$ " + re.escape(command) + r"\n(.*?)```\n", PAGE, re.DOTALL)
    assert found is not None, command
    return found[1].splitlines()


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree after what the page says."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("core", "docs", "tests", ".src"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (set(FOLDERS) | {"pyproject.toml"}) - {"core"}:
        (tree / name).symlink_to(ROOT / name)
    files = re.findall(r"^File `([^`]+)`:$", PAGE, re.MULTILINE)
    assert len(files) == 4
    for name in files:
        assert not (tree / name).exists()
        (tree / name).write_text(block(f"File `{name}`:"))
    catalogue = tree / "core/plugins/__init__.py"
    line = block("Line in `core/plugins/__init__.py`:")
    last = "    weighted_random_picker,\n"
    catalogue.write_text(
        catalogue.read_text().replace(last, line + line.replace("waiting_scorer", "odd_port_filter") + last)
    )
    sections = (tree / "docs/plugins.md").read_text() + "\n" + block("Section for `docs/plugins.md`:")
    (tree / "docs/plugins.md").write_text(sections + "\n### `odd-port-filter`\n")
    return tree


def run(copy: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = f"{copy / '.src'}{os.pathsep}{copy / 'tests'}"
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-P", *words],
        cwd=copy,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_test_of_the_page_passes_and_those_of_all_plugins(copy: Path) -> None:
    formula = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core/test_waiting_scorer.py")
    every = run(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core/test_plugins.py",
        "-k", "waiting-scorer or odd-port-filter or no_plugin_computes",
    )  # fmt: skip

    assert formula.returncode == 0, formula.stdout
    assert "1 passed" in formula.stdout
    assert every.returncode == 0, every.stdout
    assert "7 passed" in every.stdout  # scores, reasons, two sections, two lists of parameters, rounding


def test_config_check_prints_what_the_page_shows(copy: Path) -> None:
    done = run(copy, "-m", "pointsman.cli", "config", "check", "waiting.yaml")

    assert done.stdout.splitlines() == console(".venv/bin/pointsman config check waiting.yaml"), done.stderr


def test_replay_explain_prints_the_lines_that_the_page_shows(copy: Path) -> None:
    decided = run(copy, "-c", DECIDED)
    done = run(copy, "-m", "pointsman.cli", "replay", "explain", "REQUEST-ID", "--data-dir", "data")

    assert decided.returncode == 0, decided.stderr
    shown = console(".venv/bin/pointsman replay explain REQUEST-ID")
    assert [line for line in done.stdout.splitlines() if line in shown] == shown, done.stdout + done.stderr


def test_the_formatting_of_the_page_is_that_of_the_tree(copy: Path) -> None:
    names = ("core/plugins/waiting_scorer.py", "core/plugins/odd_port_filter.py", "tests/core/test_waiting_scorer.py")

    for command in (["format", "--check"], ["check"]):
        done = run(copy, "-m", "ruff", *command, "--no-cache", *names)
        assert done.returncode == 0, done.stdout
