"""Manifest files: the objects in their documents.

Pods are read, and the kinds that have a form in `cluster/objects/forms/`; all others are left alone,
those of our own API groups with a warning of what happens instead.
What has no `kind` belongs to another program that keeps its files here, and is left alone with a warning.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.forms import FORMS
from pointsman.cluster.objects.forms.form import ManifestPlace
from pointsman.cluster.objects.pod import read_pod
from pointsman.cluster.objects.unread import warn_unread
from pointsman.cluster.objects.wanted import NAME, NAME_FORM, NAMESPACE, NAMESPACE_FORM, Pod
from pointsman.cluster.objects.yaml_document import DocumentError, YamlDocument, YamlPath, load_documents
from pointsman.core.events import AppliedEvent

ManifestObject: TypeAlias = AppliedEvent | Pod

OUR_GROUPS = (
    "inference.networking.k8s.io",
    "inference.networking.x-k8s.io",
    "gateway.networking.k8s.io",
    "gateway.networking.x-k8s.io",
    "llm-d.ai",
)
"""API groups of the kinds that have a form: an object of one of them that lacks its `kind` is ours, and wrong."""

WARNINGS_MAX = 100
"""Warnings kept of one file; further ones are counted."""

_METADATA = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
    "deletionTimestamp",
]


class FoundObject(msgspec.Struct, frozen=True):
    """An object and where it stands."""

    kind: str
    name: str
    """Name of the object, as `namespace/name`."""
    line: int
    value: ManifestObject
    document: int = 0
    """Index of its document among those of the file that are not empty."""
    path: YamlPath = ()
    """Keys and indexes that lead to it in the document: none, or those of an item of a List."""

    @property
    def keys(self) -> tuple[tuple[str, str], ...]:
        """Names that no other object may have."""
        own = ((self.kind, self.name),)
        uid = self.value.uid if isinstance(self.value, Pod) else ""
        return (*own, ("Pod with uid", uid)) if uid else own


class ReadObject(msgspec.Struct, frozen=True):
    """An object as an API server has it."""

    kind: str
    name: str
    """Name of the object, as `namespace/name`."""
    found: FoundObject | None = None
    """What it says; None where it is wrong or is left alone."""
    warnings: tuple[str, ...] = ()
    fault: str = ""
    """Why it cannot be understood; empty where it can."""


class Manifest(msgspec.Struct, frozen=True):
    """What one file says."""

    source: str
    objects: tuple[FoundObject, ...] = ()
    warnings: tuple[str, ...] = ()


def file_version(data: bytes) -> str:
    """Return the `version` of objects from a file with these bytes."""
    return hashlib.sha256(data).hexdigest()[:32]


def read_manifest(source: str, data: bytes) -> Manifest:
    """Return the objects of a file; `DocumentError` with the line where it is wrong."""
    return manifest_of(source, load_documents(data), file_version(data))


def manifest_of(source: str, documents: Sequence[YamlDocument], version: str) -> Manifest:
    """Return the objects of a file that was read as YAML; `DocumentError` with the line where one is wrong."""
    warnings: list[str] = []
    found: list[FoundObject] = []
    for index, document in enumerate(documents):
        for root in _objects(document, warnings):
            if (one := _read(root, source, version)) is not None:
                found.append(msgspec.structs.replace(one, document=index, path=root.path))
    _check_unique(found)
    if len(warnings) > WARNINGS_MAX:
        warnings[WARNINGS_MAX:] = [f"and {len(warnings) - WARNINGS_MAX:,} more"]
    return Manifest(source, tuple(found), tuple(warnings))


API_SOURCE = "the cluster"
"""Source of the objects that an API server has."""


def metadata_of(value: Mapping[str, object]) -> Mapping[str, object]:
    """The metadata of an object of an API server; empty where it has none."""
    metadata = value.get("metadata")
    return metadata if isinstance(metadata, dict) else {}


def read_object(value: Mapping[str, object]) -> ReadObject:
    """Return an object of an API server.

    Its version is that of its spec: a status that a controller writes does not make it another one.
    """
    known = metadata_of(value)
    kind, name = str(value.get("kind")), f"{known.get('namespace', 'default')}/{known.get('name')}"
    warnings: list[str] = []
    try:
        found = _read(Part(value, {}, (), warnings), API_SOURCE, object_version(value))
    except DocumentError as error:
        return ReadObject(kind, name, fault=error.message)
    return ReadObject(kind, name, found, tuple(warnings[:WARNINGS_MAX]))


def object_version(value: Mapping[str, object]) -> str:
    """The version of an object's spec: the object's uid, and how often the spec was changed."""
    known = metadata_of(value)
    return f"{known.get('uid', '')}.{known.get('generation', '')}"


def _check_unique(found: list[FoundObject]) -> None:
    lines: dict[tuple[str, str], int] = {}
    for one in found:
        for key in one.keys:
            if key in lines:
                raise DocumentError(one.line, f"{key[0]} {key[1]} stands in line {lines[key]} already")
            lines[key] = one.line


def _objects(document: YamlDocument, warnings: list[str]) -> Iterator[Part]:
    """The object of a document, or those of a List, as `kubectl get -o yaml` writes it."""
    if isinstance(document.value, list):
        warnings.append(f"line {document.line}: found a list, wanted an object with a `kind`: left alone")
        return
    yield from _unlisted(Part.of(document, warnings))


def _unlisted(root: Part) -> Iterator[Part]:
    """The object itself, or those of a List and of the Lists in it."""
    kind, items = root.value.get("kind"), root.value.get("items")
    if not (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        yield root
        return
    for item in root.parts("items", len(items)):
        yield from _unlisted(item)


def _read(root: Part, source: str, version: str) -> FoundObject | None:
    """Return the object; None where it is of a kind that is not read."""
    if "kind" not in root and not _ours(root):
        root.warn("kind", "is missing: the document is left alone")
        return None
    kind = root.text("kind")
    forms = [form for form in FORMS.values() if form.kind == kind]
    if kind != "Pod" and not forms:
        _check_spelling(root, kind)
        root.text("apiVersion")
        if _ours(root):
            warn_unread(root, kind)
        return None
    form = next((form for form in forms if form.takes(root)), None)
    if form is None and (kind != "Pod" or root.text("apiVersion") != "v1"):
        return None
    metadata = root.needed_part("metadata")
    namespace = metadata.text("namespace", "default", pattern=NAMESPACE, form=NAMESPACE_FORM)
    name = f"{namespace}/{metadata.text('name', pattern=NAME, form=NAME_FORM)}"
    if form is None:
        value: ManifestObject = read_pod(root, metadata, name, source, by_hand=source != API_SOURCE)
    elif metadata.value.get("deletionTimestamp") is not None:
        return None
    else:
        value = form.read(root, ManifestPlace(name, source, version))
    metadata.ignore(*_METADATA)
    metadata.done()
    root.ignore("apiVersion", "kind", "metadata", "spec", "status")
    root.done()
    return FoundObject(kind, name, root.line(), value)


def _ours(root: Part) -> bool:
    version = root.value.get("apiVersion")
    return isinstance(version, str) and version.partition("/")[0] in OUR_GROUPS


def _check_spelling(root: Part, kind: str) -> None:
    """Raise `DocumentError` where the kind differs from one that is read in upper and lower case alone."""
    for known in ("Pod", *(form.kind for form in FORMS.values())):
        if known.lower() == kind.lower():
            raise root.error("kind", f"found {kind!r}, did you mean {known!r}?")
