"""What the documents say exists."""

import re
import tomllib
from pathlib import Path

import pytest

from pointsman.cli.main import COMMANDS
from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS
from pointsman.core.rollout.outcome import ChangeCode

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    missing = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]

    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"pointsman ((?:(?:replay|log|config|weights) )?[a-z]+)\b", page.read_text())
    words = {name for command in COMMANDS for name in (command, command.split()[0])}
    lines = [line for line in page.read_text().splitlines() if re.search(r"(^|`|/bin/)pointsman [a-z]", line)]

    assert [n for n in named if n not in words and any(f"pointsman {n}" in line for line in lines)] == []


def test_every_code_of_a_change_of_weights_is_explained() -> None:
    rows = re.findall(r"^\| (`.*`) \|", (ROOT / "docs/console.md").read_text(), re.MULTILINE)

    assert {code.value for code in ChangeCode} <= set(re.findall(r"`([a-z-]+)`", " ".join(rows)))


def test_every_plugin_has_its_section() -> None:
    text = (ROOT / "docs/plugins.md").read_text()
    headings = " ".join(re.findall(r"^#+ (.*)$", text, re.MULTILINE))

    assert [name for name in PLUGIN_VERSIONS if f"`{name}`" not in headings and name not in headings.split()] == []


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["gateway"]
    for group in ("dev", "bench"):
        wanted += project["dependency-groups"][group]
    text = (ROOT / "docs/dependencies.md").read_text().lower()

    assert [name for one in wanted if (name := re.split(r"[<>=; ]", one)[0]) not in text] == []


def test_files_that_the_architecture_page_names_exist() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    readers = re.findall(r"^\| `([a-z]+/)` \| (.*) \|$", page, re.MULTILINE)
    named = re.findall(r"`([^`\s]+/[^`\s]+\.[a-z]+)`", page.split("| Folder |")[0] + page.split("## Twelve walks")[1])
    named += re.findall(r"\((?:[^()\s]* )*([a-z]+/[^()\s]*)\)", page.split("## The way")[0])
    named += [folder + file for folder, files in readers for file in re.findall(r"`([^`\s]+\.py)`", files)]

    assert {folder for folder, _ in readers} == {"cli/", "cluster/", "core/", "eventlog/", "grpc/", "web/"}
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_walk_of_a_newcomer_ends_within_three_files_that_hold_what_it_names() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    table = page.split("## Twelve walks")[1].split("\n## ")[0]
    walks = [
        line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ") and "---" not in line
    ]

    assert len(walks[1:]) == 12
    for question, walk in walks[1:]:
        steps = re.findall(r"`([^`]+/[^`]+)`(?: `([^`]+)`)?", walk)

        assert 1 <= len(steps) <= 3, question
        assert len(steps) == walk.count("→") + 1, question
        for file, name in steps:
            assert (ROOT / file).is_file(), f"{question} {file}"
            assert re.search(rf"\b{name}\b", (ROOT / file).read_text()), f"{question} {file} {name}"
