"""The shape of the tree: how the folders become a package, and how large a file may grow."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("cli", "cluster", "core", "eventlog", "grpc", "web")

MODULE_LINES, FUNCTION_LINES, POSITIONAL_PARAMETERS = 400, 60, 5

# What exceeds a limit today, by its present size: entries may shrink and go, never grow or come.
RATCHET: dict[str, int] = json.loads((ROOT / "tests/layout.json").read_text())


def test_every_folder_is_linked_into_the_package() -> None:
    links = sorted(path.name for path in (ROOT / ".src/pointsman").iterdir())

    assert links == sorted(FOLDERS)
    for folder in FOLDERS:
        assert (ROOT / ".src/pointsman" / folder).resolve() == ROOT / folder


def test_our_grpc_folder_does_not_shadow_grpcio() -> None:
    # A regular package ./grpc would win over site-packages wherever the root is on sys.path.
    probe = "import grpc; print(grpc.__file__)"
    found = subprocess.check_output([sys.executable, "-c", probe], cwd=ROOT, text=True)

    assert not (ROOT / "grpc/__init__.py").exists()
    assert "site-packages" in found


def test_every_folder_says_that_it_is_typed() -> None:
    for folder in FOLDERS:
        assert (ROOT / folder / "py.typed").exists(), folder


def test_no_package_among_the_tests() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_nothing_grows_beyond_the_limits() -> None:
    beyond = {name: size for name, size in excesses().items() if size > RATCHET.get(name, 0)}

    assert beyond == {}, "split these up"


def test_the_table_of_exceptions_holds_nothing_that_has_shrunk() -> None:
    sizes = excesses()
    loose = {name: (allowed, sizes.get(name, 0)) for name, allowed in RATCHET.items() if sizes.get(name, 0) < allowed}

    assert loose == {}, "lower these in tests/layout.json to what they are"


def test_pinned_packages_name_no_place_to_get_them_from() -> None:
    for path in (ROOT / "requirements").iterdir():
        text = path.read_text()

        assert "--hash=sha256:" in text
        assert "://" not in text
        assert "--index-url" not in text


def sources() -> Iterator[Path]:
    """Our own modules; what a generator writes has no limit."""
    for folder in (*FOLDERS, "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if not path.is_relative_to(ROOT / "grpc/envoy"):
                yield path


def excesses() -> dict[str, int]:
    """What is larger than its limit, and how large; of several that share a name the largest."""
    found: dict[str, int] = {}

    def note(name: str, size: int, limit: int) -> None:
        if size > limit:
            found[name] = max(size, found.get(name, 0))

    for path in sources():
        name, text = str(path.relative_to(ROOT)), path.read_text()
        note(name, text.count("\n"), MODULE_LINES)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                note(f"{name}:{node.name} lines", (node.end_lineno or 0) - node.lineno + 1, FUNCTION_LINES)
                arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
                count = len(arguments) - (arguments[:1] in (["self"], ["cls"]))
                note(f"{name}:{node.name} parameters", count, POSITIONAL_PARAMETERS)
    return found


if __name__ == "__main__":
    # `python tests/test_layout.py > tests/layout.json` after something has shrunk.
    print(json.dumps(excesses(), indent=1, sort_keys=True))
