"""The shape of the tree: how the folders become a package, what may import what, and how large things may grow."""

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDERS = ("cli", "cluster", "core", "eventlog", "grpc", "web")

MODULE_LINES, FUNCTION_LINES, POSITIONAL_PARAMETERS = 400, 60, 5
ROOMS = 10
"""Modules and folders in one folder: what a reader keeps in mind at a glance.  A catalogue has one for each member."""
CATALOGUES = ("cli/commands", "core/plugins", "web/pages")

NO_NOUN = re.compile(
    r"(Of|In|On|At|As|To|By|With|Without|Within|From|For|Over|Up|Until|Since|After|Before|Behind|Beside|Beyond|Between"
    r"|Above|Below|Instead|Not|So|Such|Where|Whose|It|Its|They|Their|Them|This|These|That|Those)\b"
)
"""Words that no docstring of a field begins with: prepositions and pronouns, which refer to something unsaid."""

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


def test_a_class_name_stands_for_one_thing() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        for name in classes(path):
            places[name].append(str(path.relative_to(ROOT)))
    twice = {name: found for name, found in places.items() if len(found) > 1}

    assert twice == {}, "a reader who searches for one finds the other"


def test_a_fields_docstring_begins_with_its_noun() -> None:
    found = [f"{where}: {text}" for path in modules() for where, text in field_docstrings(path) if NO_NOUN.match(text)]

    assert found == [], "say what the value is, first: a reader sees one field and not those before it"


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(imports()) == []


def test_no_folders_import_each_other_in_a_circle() -> None:
    between: dict[str, set[str]] = defaultdict(set)
    for module, needs in imports().items():
        between[room(module)] |= {room(needed) for needed in needs} - {room(module)}

    assert circle(between) == []


def test_every_folder_begins_with_what_it_holds() -> None:
    for path in modules():
        if path.parent != ROOT / "grpc":  # a namespace package, see above
            opening = path.parent / "__init__.py"

            assert ast.get_docstring(ast.parse(opening.read_text())), opening


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


def modules() -> Iterator[Path]:
    """The modules of the product; `grpc/protos` holds a generator's script and what it reads."""
    for path in sources():
        if path.relative_to(ROOT).parts[0] in FOLDERS and not path.is_relative_to(ROOT / "grpc/protos"):
            yield path


def classes(path: Path) -> Iterator[str]:
    """The classes and the named types that a module defines."""
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                if name[0].isupper() and not name.isupper():
                    yield name


def field_docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """What stands beneath the assignments of a module, each with its file and line."""
    for node in ast.walk(ast.parse(path.read_text())):
        body = getattr(node, "body", None)
        for before, node_after in pairwise(body if isinstance(body, list) else []):
            match before, node_after:
                case ast.Assign() | ast.AnnAssign(), ast.Expr(value=ast.Constant(value=str(text))):
                    yield f"{path.relative_to(ROOT)}:{node_after.lineno}", text


@cache
def imports() -> Mapping[str, set[str]]:
    """What each module imports of ours, type checking and imports within functions included."""
    known = {str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path for path in modules()}
    found: dict[str, set[str]] = {}
    for module, path in known.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pointsman."):
                base = (node.module or "").removeprefix("pointsman.")
                for alias in node.names:
                    names = (f"{base}.{alias.name}", base, f"{base}.__init__")
                    found[module] |= {next((name for name in names if name in known), module)}
        found[module].discard(module)
    return found


def room(module: str) -> str:
    """The part of a layer that a module belongs to: a folder of it, or a module beside the folders."""
    return ".".join(module.split(".")[:2])


def circle(needs: Mapping[str, set[str]]) -> list[str]:
    """Names that need each other in a circle, the first one again at its end; none where there is none."""
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


def rooms() -> Iterator[tuple[str, int]]:
    """Each folder of the product, and how many modules and folders it holds."""
    held: dict[Path, set[str]] = defaultdict(set)
    for path in modules():
        inner = path.relative_to(ROOT)
        if inner.name != "__init__.py":
            held[inner.parent].add(inner.name)
        if len(inner.parts) > 2:
            held[inner.parent.parent].add(inner.parent.name)
    for folder, names in held.items():
        if str(folder) not in CATALOGUES:
            yield str(folder), len(names)


def excesses() -> dict[str, int]:
    """What is larger than its limit, and how large; of several that share a name the largest."""
    found: dict[str, int] = {}

    def note(name: str, size: int, limit: int) -> None:
        if size > limit:
            found[name] = max(size, found.get(name, 0))

    for folder, held in rooms():
        note(f"{folder} rooms", held, ROOMS)
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
