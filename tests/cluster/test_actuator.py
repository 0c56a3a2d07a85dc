"""Weights reach the file only while it is the one that the change rests on."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from pointsman.cluster.manifests.actuator import ManifestActuator, read_with_obstacles
from pointsman.cluster.manifests.file_replacing import NotReplaceableError, replace_file
from pointsman.cluster.objects.manifest import file_version
from pointsman.core.events import BackendRef, RouteObserved, WeightsIntended
from pointsman.core.rollout.outcome import ChangeCode, ChangeRefusal
from pointsman.core.rollout.weight_change import ReadBack, ReadBackFailed, WriteDone, WriteFailed

TEXT = b"""apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  rules:
  - backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: old, weight: 90} # stable
    - {group: inference.networking.k8s.io, kind: InferencePool, name: new, weight: 10}
"""
BEFORE = (BackendRef("default/old", 90), BackendRef("default/new", 10))
AFTER = (BackendRef("default/old", 90), BackendRef("default/new", 50))


def intent(
    data: bytes = TEXT, after: tuple[BackendRef, ...] = AFTER, before: tuple[BackendRef, ...] = BEFORE, rule: int = 0
) -> WeightsIntended:
    return WeightsIntended("c", "default/r", rule, file_version(data), before, after, "a", "because", 0.0)


def write(directory: Path | None, wanted: WeightsIntended) -> ChangeRefusal | None:
    """Why it was not written; None where it was."""
    found = trio.run(ManifestActuator(directory).write, "r.yaml", wanted)
    assert isinstance(found, WriteDone | WriteFailed)
    return found.refusal if isinstance(found, WriteFailed) else None


def test_a_weight_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(TEXT)
    path.chmod(0o640)
    refused = write(tmp_path, intent())
    found = trio.run(ManifestActuator(tmp_path).read_back, "r.yaml", intent())

    assert refused is None
    assert path.read_bytes() == TEXT.replace(b"weight: 10", b"weight: 50")
    assert found == ReadBack(file_version(path.read_bytes()), AFTER)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


def test_a_file_that_somebody_else_changed_is_left_alone(tmp_path: Path) -> None:
    theirs = TEXT.replace(b"90", b"80")
    (tmp_path / "r.yaml").write_bytes(theirs)
    refused = write(tmp_path, intent())

    assert refused is not None
    assert refused.code is ChangeCode.STALE
    assert "was changed since" in refused.found
    assert (tmp_path / "r.yaml").read_bytes() == theirs


def test_a_missing_file_and_a_missing_backend_are_refused(tmp_path: Path) -> None:
    refused = write(tmp_path, intent())
    assert refused is not None
    assert "cannot read" in refused.found

    (tmp_path / "r.yaml").write_bytes(TEXT)
    other = BackendRef("default/other", 10)
    refused = write(tmp_path, intent(before=(other,), after=(BackendRef("default/other", 1),)))
    assert refused is not None
    assert refused.code is ChangeCode.NOT_WRITTEN
    assert "r.yaml, line 6: rule 1" in refused.found
    assert (tmp_path / "r.yaml").read_bytes() == TEXT


def test_a_file_that_cannot_be_replaced_is_left_alone(tmp_path: Path) -> None:
    # Root may write anywhere, so that the name of the file beside is too long for the file system.
    long = tmp_path / ("r" * 250 + ".yaml")
    long.write_bytes(TEXT)
    found = trio.run(ManifestActuator(tmp_path).write, long.name, intent())

    assert isinstance(found, WriteFailed)
    assert "cannot write" in found.refusal.found
    assert long.read_bytes() == TEXT


def test_without_a_directory_nothing_is_touched() -> None:
    refused = write(None, intent())

    assert refused is not None
    assert refused.wanted == "a file to write"
    assert isinstance(trio.run(ManifestActuator(None).read_back, "r.yaml", intent()), ReadBackFailed)


def test_what_is_read_back_is_the_rule_of_the_change(tmp_path: Path) -> None:
    actuator, path = ManifestActuator(tmp_path), tmp_path / "r.yaml"
    path.write_bytes(TEXT)

    assert trio.run(actuator.read_back, "r.yaml", intent()) == ReadBack(file_version(TEXT), BEFORE)
    assert trio.run(actuator.read_back, "r.yaml", intent(rule=3)) == ReadBack(file_version(TEXT), ())
    path.write_bytes(TEXT.replace(b"name: r}", b"name: other}"))
    assert trio.run(actuator.read_back, "r.yaml", intent()) == ReadBack(file_version(path.read_bytes()), ())
    path.write_bytes(b"spec: [")
    assert isinstance(trio.run(actuator.read_back, "r.yaml", intent()), ReadBackFailed)
    path.unlink()
    assert isinstance(trio.run(actuator.read_back, "r.yaml", intent()), ReadBackFailed)


def test_a_weight_written_through_links_changes_the_file_at_their_end_and_keeps_the_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "route.yaml"
    real.write_bytes(TEXT)
    (tmp_path / "shared").symlink_to("real")
    (tmp_path / "r.yaml").symlink_to("shared/route.yaml")
    refused = write(tmp_path, intent())

    assert refused is None
    assert (tmp_path / "r.yaml").readlink() == Path("shared/route.yaml")
    assert real.read_bytes() == TEXT.replace(b"weight: 10", b"weight: 50")
    assert [p.name for p in real.parent.iterdir()] == ["route.yaml"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_owner_mode_and_attributes_stay(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(TEXT)
    os.chown(path, 1234, 4321)
    path.chmod(0o6640)
    os.setxattr(path, "user.about", b"ours")
    refused = write(tmp_path, intent())
    found = path.stat()

    assert refused is None
    assert path.read_bytes() != TEXT
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 4321, 0o6640)
    assert os.getxattr(path, "user.about") == b"ours"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may take on another user's rights")
def test_a_file_whose_owner_would_change_is_not_written_and_that_is_said_when_it_is_read(
    request: pytest.FixtureRequest,
) -> None:
    directory = Path(tempfile.mkdtemp())  # those of pytest are closed to others
    request.addfinalizer(partial(shutil.rmtree, directory))
    (directory / "r.yaml").write_bytes(TEXT)
    directory.chmod(0o777)
    said = as_user(1234, lambda: obstacles(directory)[0])
    refusal = as_user(1234, lambda: refused_replacing(directory / "r.yaml"))

    assert refusal == (
        "r.yaml belongs to user 0 and group 0, which a new file would not,"
        " wanted a file of user 1234 and of one of its groups"
    )
    assert said == refusal
    assert (directory / "r.yaml").read_bytes() == TEXT
    assert [p.name for p in directory.iterdir()] == ["r.yaml"]


def as_user(number: int, work: Callable[[], str]) -> str:
    """What `work` returns in a process of another user."""
    ours, theirs = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setresgid(number, number, number)
            os.setresuid(number, number, number)
            os.write(theirs, work().encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as told:
        found = told.read().decode()
    os.waitpid(child, 0)
    return found


def refused_replacing(path: Path) -> str:
    """Why the file is not replaced."""
    try:
        replace_file(path, path.read_bytes(), b"other")
    except NotReplaceableError as error:
        return str(error)
    return "replaced"


def obstacles(directory: Path) -> list[str]:
    """What is said of each rule when the file is read."""
    [found] = read_with_obstacles(directory, "r.yaml", (directory / "r.yaml").read_bytes()).objects
    assert isinstance(found.value, RouteObserved)
    return [rule.unwritable for rule in found.value.rules]


def test_a_file_with_hard_links_is_not_parted_from_them_and_that_is_said_when_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes(TEXT)
    assert obstacles(tmp_path) == [""]
    os.link(tmp_path / "r.yaml", tmp_path / "other")
    refused = write(tmp_path, intent())

    assert refused is not None
    assert refused.found == "r.yaml has 2 names (hard links), of which one alone would change"
    assert obstacles(tmp_path) == [refused.sentence]
    assert os.path.samefile(tmp_path / "r.yaml", tmp_path / "other")
    assert (tmp_path / "r.yaml").read_bytes() == TEXT


def test_no_fifo_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    refused = write(tmp_path, intent())
    found = trio.run(ManifestActuator(tmp_path).read_back, "r.yaml", intent())

    assert refused is not None
    assert refused.found == "r.yaml is no regular file"
    assert found == ReadBackFailed("r.yaml is no regular file, wanted one")
