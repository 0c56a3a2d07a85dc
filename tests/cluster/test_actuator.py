"""Weights reach the file only while it is the one that the change rests on."""

import stat
from pathlib import Path

import trio

from pointsman.cluster.manifests.actuator import ManifestActuator
from pointsman.cluster.objects.manifest import file_version
from pointsman.core.events import BackendRef, WeightsIntended
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
