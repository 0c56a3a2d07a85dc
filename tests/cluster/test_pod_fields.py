"""Each field of a Pod makes its member what it is, or makes no difference and has its reason; none is dropped in silence."""

import importlib.util
import re
from types import ModuleType
from typing import Any, cast

import msgspec
import pytest
from worlds.crd_fields import ROOT, Example, check_fields, fields_of, rows

from pointsman.cluster.objects.manifest import Manifest, manifest_of, read_object
from pointsman.cluster.objects.pod import CONDITION, CONDITION_UNREAD, SPEC_UNREAD, STATUS_UNREAD
from pointsman.cluster.objects.wanted import Pod
from pointsman.cluster.objects.yaml_document import DocumentError, YamlDocument
from pointsman.cluster.objects.yaml_nodes import YamlNode

READ: dict[str, object] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata.name": "p",
    "metadata.namespace": "n",
    "metadata.uid": "u-1",
    "metadata.labels": {"app": "p"},
    "metadata.annotations": {"inference.networking.k8s.io/active-ports": "8000"},
    "metadata.deletionTimestamp": "2026-01-02T03:04:05Z",
    "status.podIP": "10.0.0.1",
    "status.conditions[].type": "Ready",
    "status.conditions[].status": "True",
}
"""Values of fields that are read; all others may hold any."""
ROOTS = ("apiVersion", "kind", "metadata", "spec", "status")


def pod_with(fields: dict[str, list[str]]) -> Example:
    """A Pod that has each of these fields, in lists of one item."""
    made: dict[str, Any] = {}
    for field in fields:
        holder: Any = made
        names = re.findall(r"([^.\[\]]+)(\[\])?", field)
        for name, is_list in names[:-1]:
            holder = holder.setdefault(name, [{}] if is_list else {})
            holder = holder[0] if is_list else holder
        name, is_list = names[-1]
        value = READ.get(field, "x")
        holder[name] = [value] if is_list else value
    return made


def manifest(example: Example) -> Manifest:
    document = YamlDocument(example, {}, 1, cast(YamlNode, None))
    return manifest_of("pods.yaml", [document], "")


def read(example: Example) -> tuple[str, tuple[str, ...]]:
    """What the Pod says, and what is warned of."""
    try:
        found = manifest(example)
    except DocumentError as error:
        return f"error: {error.message}", ()
    return repr([one.value for one in found.objects]), found.warnings


def test_each_field_of_a_pod_does_what_the_documents_say() -> None:
    effects = {field: effect for field, effect, *_ in rows("compatibility.md", "### Fields of a Pod")}

    assert check_fields("pod", effects, pod_with(fields_of("pod")), read=read, roots=ROOTS) == []


def test_each_field_that_makes_no_difference_has_its_reason() -> None:
    without = [
        row for row in rows("compatibility.md", "### Fields of a Pod") if row[1] == "no difference" and not row[2]
    ]

    assert without == []


def tops(part: str) -> set[str]:
    """The names of the fields right below a part of a Pod."""
    found = (field.removeprefix(f"{part}.") for field in fields_of("pod") if field.startswith(f"{part}."))
    return {re.split(r"[.\[]", field)[0] for field in found}


def test_what_is_known_is_what_a_pod_may_have() -> None:
    assert set(SPEC_UNREAD) == tops("spec")
    assert {*STATUS_UNREAD, "podIP", "conditions"} == tops("status")
    assert {*CONDITION, *CONDITION_UNREAD} == tops("status.conditions[]")


def derived() -> ModuleType:
    place = ROOT / "tests/vendor/crds/derive_core.py"
    spec = importlib.util.spec_from_file_location("derive_core", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_of_fields_is_that_of_the_client_that_is_installed() -> None:
    pytest.importorskip("kubernetes")

    assert list(derived().leaves("V1Pod", "")) == list(fields_of("pod"))


def changed(place: tuple[str | int, ...], value: object) -> Example:
    """A Pod with one more member."""
    fields: dict[str, list[str]] = {field: [] for field in READ}
    made = cast("dict[str, Any]", msgspec.json.decode(msgspec.json.encode(pod_with(fields))))
    holder: Any = made
    for step in place[:-1]:
        holder = holder[step] if isinstance(step, int) else holder.setdefault(step, {})
    holder[place[-1]] = value
    return made


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (("metadata", "labls"), "metadata.labls: unknown field, did you mean 'labels'?"),
        (("status", "podIp"), "status.podIp: unknown field, did you mean 'podIP'?"),
        (("status", "conditions", 0, "staus"), "status.conditions[0].staus: unknown field, did you mean 'status'?"),
        (("spec", "container"), "spec.container: unknown field, did you mean 'containers'?"),
        (("sepc",), "sepc: unknown field, did you mean 'spec'?"),
    ],
)
def test_a_field_that_no_pod_has_is_warned_of_where_people_wrote_it(place: tuple[str | int, ...], words: str) -> None:
    example = changed(place, "x")

    assert [one for one in manifest(example).warnings if words in one], manifest(example).warnings


def test_an_api_server_may_know_more_fields_than_we_do() -> None:
    for place in (("status", "of2030"), ("status", "conditions", 0, "of2030"), ("spec", "of2030")):
        assert read_object(changed(place, "x")).warnings == ()


@pytest.mark.parametrize("written", ["true", "Yes", 1, None])
def test_a_readiness_that_is_none_is_warned_of(written: object) -> None:
    found = manifest(changed(("status", "conditions", 0, "status"), written))

    [one] = found.objects
    assert isinstance(one.value, Pod)
    assert not one.value.ready
    assert [w for w in found.warnings if w.startswith("status.conditions[0].status: found ")] != []
