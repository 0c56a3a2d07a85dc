"""Weights reach the file only while it is the one that the change rests on."""

import stat
from pathlib import Path

import pytest
import trio

from pointsman.cluster.manifests.actuator import WriteRefused, end_of, write_weights
from pointsman.cluster.objects.manifest import file_version
from pointsman.core.events import BackendRef, RouteObserved, WeightsIntended, WeightsRefused, WeightsWritten

TEXT = b"""kind: HTTPRoute
metadata: {name: r}
spec:
  rules:
  - backendRefs:
    - {group: g, kind: InferencePool, name: old, weight: 90} # stable
    - {group: g, kind: InferencePool, name: new, weight: 10}
"""


def route(data: bytes) -> RouteObserved:
    return RouteObserved("default/r", (), source="r.yaml", version=file_version(data))


NEW = BackendRef("default/new", 50, "InferencePool", "g")


def test_a_weight_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(TEXT)
    path.chmod(0o640)
    version = trio.run(write_weights, tmp_path, route(TEXT), 0, [NEW])

    assert path.read_bytes() == TEXT.replace(b"weight: 10", b"weight: 50")
    assert version == file_version(path.read_bytes())
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["r.yaml"]


def test_a_file_that_somebody_else_changed_is_left_alone(tmp_path: Path) -> None:
    theirs = TEXT.replace(b"90", b"80")
    (tmp_path / "r.yaml").write_bytes(theirs)

    with pytest.raises(WriteRefused, match="was changed since") as refused:
        trio.run(write_weights, tmp_path, route(TEXT), 0, [NEW])
    assert refused.value.stale
    assert (tmp_path / "r.yaml").read_bytes() == theirs


def test_a_missing_file_and_a_missing_backend_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WriteRefused, match="cannot read"):
        trio.run(write_weights, tmp_path, route(TEXT), 0, [NEW])

    (tmp_path / "r.yaml").write_bytes(TEXT)
    with pytest.raises(WriteRefused, match=r"r\.yaml, line 5: rule 1"):
        trio.run(write_weights, tmp_path, route(TEXT), 0, [BackendRef("default/other", 1)])


def intent(after: tuple[BackendRef, ...], rule: int = 0) -> WeightsIntended:
    return WeightsIntended("c", "default/r", rule, "v", (), after, "a", "because", 0.0)


def test_a_change_without_an_end_is_written_where_the_file_has_its_weights(tmp_path: Path) -> None:
    text = b"apiVersion: gateway.networking.k8s.io/v1\n" + TEXT.replace(
        b"group: g", b"group: inference.networking.k8s.io"
    )
    (tmp_path / "r.yaml").write_bytes(text)
    old, new = BackendRef("default/old", 90), BackendRef("default/new", 10)
    seen = route(text)

    assert end_of(tmp_path, seen, intent((old, new))) == WeightsWritten("c", file_version(text))
    for other in (intent((old,)), intent((new, old)), intent((old, new), rule=3)):
        found = end_of(tmp_path, seen, other)
        assert isinstance(found, WeightsRefused)
        assert "ended before it was written" in found.cause
    assert isinstance(end_of(tmp_path, None, intent((old, new))), WeightsRefused)
    (tmp_path / "r.yaml").write_bytes(b"spec: [")
    assert isinstance(end_of(tmp_path, seen, intent((old, new))), WeightsRefused)
    (tmp_path / "r.yaml").unlink()
    assert isinstance(end_of(tmp_path, seen, intent((old, new))), WeightsRefused)
