"""Libraries that tests preload into processes to have their calls fail, wait, or be written down."""

import shutil
import subprocess
from pathlib import Path

import pytest


def compiled(source: Path, directory: Path) -> Path:
    """The library of a C file, put into `directory`; skips the test where nothing can be compiled."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    library = directory / f"{source.stem}.so"
    command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl", "-pthread"]
    subprocess.run(command, check=True)
    return library
