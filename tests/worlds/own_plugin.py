"""The product with one more plugin, as somebody adds a scorer of their own: in a copy of the tree."""

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FOLDERS = ("cli", "cluster", "eventlog", "grpc", "web", "pyproject.toml")


def tree_with(tree: Path, module: str, source: str) -> dict[str, str]:
    """A copy with this module among the plugins; the environment in which `pointsman` is that copy."""
    tree.mkdir()
    for name in ("core", ".src"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FOLDERS:
        (tree / name).symlink_to(ROOT / name)
    (tree / "core/plugins" / f"{module}.py").write_text(source)
    catalogue = tree / "core/plugins/__init__.py"
    last = "    weighted_random_picker,\n"
    text = catalogue.read_text()
    assert last in text
    catalogue.write_text(text.replace(last, f"    {module},\n" + last))
    return {"PYTHONPATH": f"{tree / '.src'}{os.pathsep}{ROOT / 'tests'}", "PYTHONDONTWRITEBYTECODE": "1"}
