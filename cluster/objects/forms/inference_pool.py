"""InferencePool manifests, of v1 and of v1alpha2, and of one version in the spelling of the other.

Each of the three parts of the spec is read in whichever spelling it has.
Where that is not the one of the object's apiVersion, the warning prints the manifest as it should be.
"""

from collections.abc import Mapping

import msgspec

from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.forms.form import ManifestForm, ManifestPlace
from pointsman.cluster.objects.yaml_document import dump_document
from pointsman.core.events import PoolApplied
from pointsman.core.values.distance import nearest

V1, V1ALPHA2 = "inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2"
PICKER_PORT = 9002
"""Port of a v1alpha2 `extensionRef` that names none."""

MODES, PROTOCOLS = ("FailClose", "FailOpen"), ("http", "kubernetes.io/h2c")


class _PoolSpec(msgspec.Struct):
    """A spec, and what in it is not in the spelling of the object's apiVersion."""

    v1: bool
    odd: list[str]

    def spelled(self, name: str, v1: bool, instead: str) -> None:
        """Note a spelling of version v1, or of v1alpha2."""
        if v1 != self.v1:
            self.odd.append(f"{name!r} is {instead!r} in {V1 if self.v1 else V1ALPHA2}")


def read_pool(root: Part, place: ManifestPlace) -> PoolApplied:
    """Return the pool of a manifest; `DocumentError` with the line where it is wrong."""
    version = root.text("apiVersion")
    form = _PoolSpec(v1=version != V1ALPHA2, odd=[])
    if version not in (V1, V1ALPHA2):
        form.odd.append(f"apiVersion {version!r} has no InferencePool")
    spec = root.needed_part("spec")
    selector = _selector(spec, form)
    ports = _ports(spec, form)
    picker, port, mode = _picker(spec, form)
    applied = PoolApplied(
        place.name, selector, ports, picker, port, mode, spec.choice("appProtocol", PROTOCOLS, "http"), place.source
    )
    spec.done()
    if form.odd:
        root.warn(
            "spec",
            f"read as it was meant: {'; '.join(form.odd)}. Corrected:\n{_corrected(root, applied, form.v1 or len(ports) > 1)}",
        )
    return applied


def _selector(spec: Part, form: _PoolSpec) -> dict[str, str]:
    selector = spec.needed_part("selector")
    flat = bool(selector.value) and not any(isinstance(value, (dict, list)) for value in selector.value.values())
    if flat and not ("matchLabels" in selector.value and form.v1 and len(selector.value) == 1):
        form.spelled("selector", False, "selector.matchLabels")
        labels = spec.labels("selector")
    else:
        if "matchExpressions" in selector:
            raise selector.error("matchExpressions", "a pool selects by matchLabels only")
        labels = selector.labels("matchLabels")
        if not labels and (near := nearest("matchLabels", selector.value)) not in (None, "matchLabels"):
            raise selector.error(near, "unknown field, did you mean 'matchLabels'?")
        selector.done()
        form.spelled("selector.matchLabels", True, "selector")
    if not labels or len(labels) > 64:
        raise spec.error("selector", f"found {len(labels)} labels, wanted 1 to 64")
    return labels


def _ports(spec: Part, form: _PoolSpec) -> tuple[int, ...]:
    if "targetPorts" in spec and "targetPortNumber" in spec:
        raise spec.error("targetPortNumber", "stands beside 'targetPorts', wanted one of them")
    if "targetPortNumber" in spec:
        form.spelled("targetPortNumber", False, "targetPorts")
        return (spec.number("targetPortNumber", 1, 65535),)
    if "targetPorts" in spec:
        form.spelled("targetPorts", True, "targetPortNumber")
    elif not form.v1:
        spec.number("targetPortNumber", 1, 65535)
    ports: list[int] = []
    for part in spec.parts("targetPorts", 8):
        number = part.number("number", 1, 65535)
        part.done()
        if number in ports:
            raise part.error("number", f"found {number} a second time, wanted port numbers that differ")
        ports.append(number)
    if not ports:
        near = nearest("targetPorts", set(spec.value) - {"selector", "targetPorts"})
        if near is not None:
            raise spec.error(near, "unknown field, did you mean 'targetPorts'?")
        raise spec.error("targetPorts", "found no ports, wanted 1 to 8, as `- number: 8000`")
    return tuple(ports)


def _picker(spec: Part, form: _PoolSpec) -> tuple[str, int, str]:
    """Name, port and failure mode of the endpoint picker."""
    if "endpointPickerRef" in spec and "extensionRef" in spec:
        raise spec.error("extensionRef", "stands beside 'endpointPickerRef', wanted one of them")
    old = "extensionRef" in spec
    ref = spec.part("extensionRef" if old else "endpointPickerRef")
    spec.ignore("endpointPickerRef", "extensionRef")
    if ref is None:
        return "", 0, MODES[0]
    form.spelled(
        "extensionRef" if old else "endpointPickerRef", not old, "endpointPickerRef" if old else "extensionRef"
    )
    name, kind = ref.text("name"), ref.text("kind", "Service")
    mode = ref.choice("failureMode", MODES, MODES[0])
    ref.ignore("group")
    port = _picker_port(ref, form, old)
    if port == 0 and old:
        port = PICKER_PORT
    elif port == 0 and kind == "Service":
        raise ref.error("port", "is missing, wanted `port: {number: 9002}` for a Service")
    ref.done()
    return name, port, mode


def _picker_port(ref: Part, form: _PoolSpec, old: bool) -> int:
    if "portNumber" in ref:
        if not old:
            form.odd.append(f"'portNumber' is 'port.number' in {V1}")
        return ref.number("portNumber", 1, 65535)
    ref.ignore("portNumber")
    if isinstance(ref.value.get("port"), int):
        form.odd.append("'port' is 'portNumber' in an extensionRef" if old else "'port' is 'port.number'")
        return ref.number("port", 1, 65535)
    port = ref.part("port")
    if port is None:
        return 0
    number = port.number("number", 1, 65535)
    port.done()
    if old:
        form.odd.append("'port.number' is 'portNumber' in an extensionRef")
    return number


def _corrected(root: Part, pool: PoolApplied, v1: bool) -> str:
    """The manifest as it should be; what was not wrong keeps its place."""
    metadata = root.value.get("metadata")
    picker: dict[str, object] = {}
    spec: dict[str, object] = {}
    ref = root.needed_part("spec")
    written = ref.value.get("extensionRef") or ref.value.get("endpointPickerRef")
    if isinstance(written, Mapping):
        picker = {key: written[key] for key in ("group", "kind", "name") if key in written}
    if v1:
        spec = {"selector": {"matchLabels": pool.selector}, "targetPorts": [{"number": p} for p in pool.target_ports]}
        if pool.picker_port:
            picker["port"] = {"number": pool.picker_port}
    else:
        spec = {"selector": pool.selector, "targetPortNumber": pool.target_ports[0]}
        picker["portNumber"] = pool.picker_port
    if pool.app_protocol != "http":
        spec["appProtocol"] = pool.app_protocol
    if written:
        picker["failureMode"] = pool.failure_mode
        spec["endpointPickerRef" if v1 else "extensionRef"] = picker
    whole = {"apiVersion": V1 if v1 else V1ALPHA2, "kind": "InferencePool", "metadata": metadata, "spec": spec}
    return dump_document(whole)


FORM = ManifestForm(PoolApplied, "InferencePool", read_pool)
