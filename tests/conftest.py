"""How tests run: property tests without a deadline for each example, and files side by side (`make test`)."""

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

# Machines are shared, and a slow moment is no fault.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

SYSTEMS = ("tests/e2e/", "tests/faults/")
ALONE = tuple(f"tests/faults/test_{name}.py" for name in ("disk", "hung", "moments", "processes", "world")) + tuple(
    f"tests/e2e/test_{name}.py" for name in ("demo", "kills", "lives")
)
"""Tests of all processes under load.  One such system keeps two cores busy, so one worker runs them all, in turn."""


def worker_scope(test: str) -> str:
    """What tests have in common that one worker runs one after the other: their file, and so its fixtures."""
    return "under load" if test.startswith(ALONE) else test.partition("::")[0]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Tests are given out by `worker_scope`."""
    scheduler = LoadFileScheduling(config, log)
    scheduler._split_scope = worker_scope
    return scheduler


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A worker's order: systems under load first, then other systems, because what is long must not begin last."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: (not item.nodeid.startswith(ALONE), not item.nodeid.startswith(SYSTEMS)))
