"""The version that this installation has."""

from importlib.metadata import version


def build() -> str:
    """What the log and `--version` name as the maker of entries: `pointsman` and the version."""
    return f"pointsman {version('pointsman')}"
