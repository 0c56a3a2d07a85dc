"""Manifests become objects; what is wrong is said with its line, and what was meant is printed."""

import pytest
import yaml
from hypothesis import given, strategies as st

from pointsman.cluster.objects.manifest import Manifest, file_version, read_manifest
from pointsman.cluster.objects.wanted import Pod
from pointsman.cluster.objects.yaml_document import DocumentError
from pointsman.core.events import (
    BackendRef,
    HeaderMatch,
    ObjectiveApplied,
    PoolApplied,
    RouteMatch,
    RouteObserved,
    RouteRule,
)

POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: llama
spec:
  selector:
    matchLabels:
      app: llama
  targetPorts:
    - number: 8000
  endpointPickerRef:
    name: llama-epp
    port:
      number: 9002
"""
OLD_POOL = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata:
  name: llama
spec:
  selector:
    app: llama
  targetPortNumber: 8000
  extensionRef:
    name: llama-epp
"""
ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: llm-route
spec:
  parentRefs:
    - name: gateway
  hostnames: ["llm.example.com"]
  rules:
    - name: chat
      matches:
        - path: {type: Exact, value: /v1/chat/completions}
          method: POST
          headers:
            - {name: x-team, value: a}
        - path: {value: /v1}
      backendRefs:
        - {group: inference.networking.k8s.io, kind: InferencePool, name: old, weight: 90}
        - {group: inference.networking.k8s.io, kind: InferencePool, name: new, namespace: lab}
      timeouts: {request: 1m30s}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata:
  name: llama-0
  uid: 5f0c
  labels: {app: llama}
  annotations: {}
spec:
  containers: [{name: vllm, image: vllm}]
status:
  podIP: 10.0.0.1
  conditions:
    - {type: PodScheduled, status: "True"}
    - {type: Ready, status: "True"}
"""
APPLIED = PoolApplied("default/llama", {"app": "llama"}, (8000,), "llama-epp", 9002, source="f.yaml")


def read(text: str) -> Manifest:
    return read_manifest("f.yaml", text.encode())


def only(text: str) -> object:
    (found,) = read(text).objects
    return found.value


def fault(text: str) -> tuple[int, str]:
    with pytest.raises(DocumentError) as caught:
        read(text)
    return caught.value.line, caught.value.message


def corrected(manifest: Manifest) -> str:
    (warning,) = manifest.warnings
    return warning.split("Corrected:\n")[1]


def test_a_pool_of_v1() -> None:
    assert only(POOL) == APPLIED
    assert read(POOL).warnings == ()


def test_a_pool_of_v1alpha2() -> None:
    assert only(OLD_POOL) == APPLIED
    assert read(OLD_POOL).warnings == ()


def test_all_fields_of_a_pool() -> None:
    text = POOL.replace("- number: 8000", "- number: 8000\n    - number: 8001\n  appProtocol: kubernetes.io/h2c")
    text = text.replace(
        "    name: llama-epp", "    name: llama-epp\n    kind: Service\n    group: ''\n    failureMode: FailOpen"
    )
    text = text.replace("name: llama\n", "name: llama\n  namespace: lab\n")

    assert only(text) == PoolApplied(
        "lab/llama", {"app": "llama"}, (8000, 8001), "llama-epp", 9002, "FailOpen", "kubernetes.io/h2c", "f.yaml"
    )


def test_a_pool_without_picker() -> None:
    text = POOL[: POOL.index("  endpointPickerRef")]

    assert only(text) == PoolApplied("default/llama", {"app": "llama"}, (8000,), source="f.yaml")


def test_the_pool_of_the_rollout_guide_is_read_as_meant_and_corrected() -> None:
    text = OLD_POOL.replace("inference.networking.x-k8s.io/v1alpha2", "inference.networking.k8s.io/v1")
    manifest = read(text)

    assert manifest.objects[0].value == APPLIED
    assert manifest.warnings[0].startswith("line 5: spec: read as it was meant: 'selector' is 'selector.matchLabels'")
    assert yaml.safe_load(corrected(manifest))["spec"] == {
        "selector": {"matchLabels": {"app": "llama"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "llama-epp", "port": {"number": 9002}, "failureMode": "FailClose"},
    }


def test_the_port_of_the_pool_guide_is_read_as_meant_and_corrected() -> None:
    manifest = read(OLD_POOL + "    port: 9010\n    failureMode: FailClose\n")

    assert manifest.objects[0].value == PoolApplied(
        "default/llama", {"app": "llama"}, (8000,), "llama-epp", 9010, source="f.yaml"
    )
    assert yaml.safe_load(corrected(manifest))["spec"]["extensionRef"] == {
        "name": "llama-epp",
        "portNumber": 9010,
        "failureMode": "FailClose",
    }


@given(
    st.sampled_from(
        ("inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2", "networking.k8s.io/v1")
    ),
    st.booleans(),
    st.booleans(),
    st.sampled_from(("none", "old", "new", "old with port", "old with number", "new with portNumber")),
    st.sampled_from(("FailClose", "FailOpen")),
)
def test_every_mix_of_spellings_means_the_same_and_its_correction_needs_none(
    version: str, flat: bool, old_port: bool, ref: str, mode: str
) -> None:
    spec: dict[str, object] = {"selector": {"app": "llama"} if flat else {"matchLabels": {"app": "llama"}}}
    spec |= {"targetPortNumber": 8000} if old_port else {"targetPorts": [{"number": 8000}]}
    picker = {"name": "llama-epp", "failureMode": mode}
    if ref != "none":
        refs: dict[str, dict[str, object]] = {
            "old": {"extensionRef": picker},
            "new": {"endpointPickerRef": {**picker, "port": {"number": 9002}}},
            "old with port": {"extensionRef": {**picker, "port": 9002}},
            "old with number": {"extensionRef": {**picker, "port": {"number": 9002}}},
            "new with portNumber": {"endpointPickerRef": {**picker, "portNumber": 9002}},
        }
        spec |= refs[ref]
    text = yaml.safe_dump({"apiVersion": version, "kind": "InferencePool", "metadata": {"name": "llama"}, "spec": spec})
    manifest = read(text)
    name, port, failure = ("", 0, "FailClose") if ref == "none" else ("llama-epp", 9002, mode)
    meant = PoolApplied("default/llama", {"app": "llama"}, (8000,), name, port, failure, source="f.yaml")

    assert manifest.objects[0].value == meant
    for warning in manifest.warnings:
        again = read(warning.split("Corrected:\n")[1])
        assert (again.objects[0].value, again.warnings) == (meant, ())


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (POOL.replace("number: 8000", "number: 0"), 10, "spec.targetPorts[0].number: found 0, wanted a whole number from 1"),
        (POOL.replace("number: 8000", "number: '8000'"), 10, "found '8000', wanted a whole number"),
        (POOL.replace("number: 8000", "number: true"), 10, "found true, wanted a whole number"),
        (POOL.replace("- number: 8000", "- number: 1\n    - number: 1"), 11, "found 1 a second time"),
        (POOL.replace("app: llama", "version: 1"), 8, "spec.selector.matchLabels.version: found 1, wanted text, in quotes"),
        (OLD_POOL.replace("app: llama", "version: 1"), 7, "spec.selector.version: found 1, wanted text, in quotes"),
        (POOL.replace("matchLabels", "matchLabel"), 7, "spec.selector.matchLabel: unknown field, did you mean 'matchLabels'?"),
        (POOL.replace("      app: llama", "      {}"), 6, "found 0 labels, wanted 1 to 64"),
        (POOL.replace("  selector:\n    matchLabels:\n      app: llama\n", ""), 5, "spec.selector: is missing, wanted a mapping"),
        (POOL.replace("targetPorts", "targetPort"), 9, "spec.targetPort: unknown field, did you mean 'targetPorts'?"),
        (POOL.replace("targetPorts:\n    - number: 8000", "targetPorts: []"), 9, "found no ports, wanted 1 to 8, as `- number: 8000`"),
        (POOL.replace("    port:\n      number: 9002\n", ""), 11, "spec.endpointPickerRef.port: is missing"),
        (POOL + "    failureMode: FailClosed\n", 15, "found 'FailClosed', wanted FailClose, FailOpen; did you mean 'FailClose'?"),
        (POOL.replace("name: llama\n", "name: Llama\n"), 4, "found 'Llama', wanted a name of lower-case letters"),
        (POOL.replace("  name: llama\n", "  nam: llama\n"), 3, "metadata.name: is missing, wanted"),
        (POOL.replace("kind: InferencePool", "kind: inferencepool"), 2, "found 'inferencepool', did you mean 'InferencePool'?"),
        (POOL.replace("matchLabels:\n      app: llama", "matchExpressions: [{}]"), 7, "a pool selects by matchLabels only"),
        (POOL + "  targetPortNumber: 8000\n", 15, "stands beside 'targetPorts'"),
        (ROUTE.replace("weight: 90", "weight: -1"), 18, "spec.rules[0].backendRefs[0].weight: found -1, wanted a whole number from 0 to 1,000,000"),
        (ROUTE.replace("weight: 90", "weight: 0.5"), 18, "found 0.5, wanted a whole number"),
        (ROUTE.replace("Exact", "Prefix"), 12, "found 'Prefix', wanted PathPrefix, Exact, RegularExpression; did you mean 'PathPrefix'?"),
        (ROUTE.replace("/v1/chat/completions", "v1"), 12, "found 'v1', wanted a path that begins with '/'"),
        (ROUTE.replace("POST", "post"), 13, "found 'post', wanted GET,"),
        (ROUTE.replace("1m30s", "90"), 20, "found 90, wanted text, in quotes"),
        (ROUTE.replace("1m30s", "90 s"), 20, "found '90 s', wanted a duration such as 30s"),
        (ROUTE.replace('["llm.example.com"]', "[LLM]"), 8, "item 1 is 'LLM', wanted a lower-case host name"),
        (ROUTE.replace("k8s.io/v1\n", "k8s.io/v2\n", 1), 1, "found 'gateway.networking.k8s.io/v2', wanted"),
        (ROUTE + "      filters: [{type: URLRewrite}]\n", 21, "spec.rules[0].filters[0].urlRewrite: is missing, wanted a mapping"),
        (ROUTE + "      retry: {codes: [503, 200]}\n", 21, "spec.rules[0].retry.codes[1]: found 200, wanted a whole number from 400 to 599"),
        (POD.replace("10.0.0.1", "10.0.0"), 11, "status.podIP: found '10.0.0', wanted an IP address"),
        (POD.replace("labels: {app: llama}", "labels: [app]"), 6, "metadata.labels: found a list, wanted a mapping"),
        ("apiVersion: v1\nkind: Pod\n---\n", 1, "metadata: is missing, wanted a mapping"),
        (POOL + "---\n" + POOL, 16, "InferencePool default/llama stands in line 1 already"),
        (POD + "---\n" + POD.replace("llama-0", "llama-1"), 16, "Pod with uid 5f0c stands in line 1 already"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(text: str, line: int, words: str) -> None:
    found_line, message = fault(text)

    assert (words in message, message, found_line) == (True, message, line)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (POOL.replace("metadata:", "metadata:\n  lables: {}"), "line 4: metadata.lables: unknown field, did you mean 'labels'?"),
        (POOL + "  appProtcol: http\n", "line 15: spec.appProtcol: unknown field, did you mean 'appProtocol'?"),
        (POOL + "    failMode: FailOpen\n", "line 15: spec.endpointPickerRef.failMode: unknown field, did you mean 'failureMode'?"),
        (ROUTE.replace("weight: 90", "wieght: 90"), "line 18: spec.rules[0].backendRefs[0].wieght: unknown field, did you mean 'weight'?"),
        (ROUTE + "      sessionPersistence: {sessionName: a}\n", "line 21: spec.rules[0].sessionPersistence: has no effect: the pool's picker chooses the endpoint of every request"),
        (ROUTE.replace("value: /v1}", "value: '/v1?a=b'}"), "line 16: spec.rules[0].matches[1].path.value: holds '?' or '#', which no path does: no request matches it"),
        (ROUTE + "      retry: {attempts: 9}\n", "line 21: spec.rules[0].retry.attempts: found 9: the gateway makes 5 after the first"),
        (POD[: POD.index("status:")], "line 1: status: pod default/llama-0 has no status.podIP: it is no endpoint"),
        (POD.replace("Ready", "Redy"), "line 10: status: pod default/llama-0 has no condition of type Ready: it gets no traffic"),
    ],
)  # fmt: skip
def test_what_is_doubtful_is_a_warning(text: str, warning: str) -> None:
    assert read(text).warnings == (warning,)


def test_a_route() -> None:
    group = "inference.networking.k8s.io"

    assert only(ROUTE) == RouteObserved(
        "default/llm-route",
        (
            RouteRule(
                (
                    RouteMatch("/v1/chat/completions", "Exact", (HeaderMatch("x-team", "a"),), "POST"),
                    RouteMatch("/v1", "PathPrefix"),
                ),
                (
                    BackendRef("default/old", 90, "InferencePool", group),
                    BackendRef("lab/new", 1, "InferencePool", group),
                ),
                "chat",
                90.0,
            ),
        ),
        ("llm.example.com",),
        "f.yaml",
        file_version(ROUTE.encode()),
    )


def test_a_backend_without_kind_is_a_service() -> None:
    route = only(ROUTE.replace("group: inference.networking.k8s.io, kind: InferencePool, ", ""))
    assert isinstance(route, RouteObserved)

    assert route.rules[0].backends[0] == BackendRef("default/old", 90, "Service", "")


def test_rules_as_a_mapping_are_a_list_of_one_and_corrected() -> None:
    manifest = read(ROUTE.replace("    - name: chat", "      name: chat"))

    assert manifest.objects[0].value.rules == only(ROUTE).rules  # type: ignore[union-attr,attr-defined]
    assert yaml.safe_load(corrected(manifest)) == yaml.safe_load(ROUTE)


def test_a_pod() -> None:
    assert only(POD) == Pod("default", "llama-0", "5f0c", "10.0.0.1", True, {"app": "llama"}, source="f.yaml")


@pytest.mark.parametrize(
    ("status", "ready"), [('"True"', True), ("True", True), ('"False"', False), ("Unknown", False), ("'true'", False)]
)
def test_a_pod_is_ready_by_its_condition(status: str, ready: bool) -> None:
    pod = only(POD.replace('{type: Ready, status: "True"}', f"{{type: Ready, status: {status}}}"))
    assert isinstance(pod, Pod)

    assert pod.ready == ready


@pytest.mark.parametrize(
    ("annotations", "ports"),
    [
        ("{}", None),
        ("{llm-d.ai/active-ports: '8000, 8001x ,y,'}", {8000, 8001}),
        ("{inference.networking.k8s.io/active-ports: '8001'}", {8001}),
        ("{inference.networking.k8s.io/active-ports: '8001', llm-d.ai/active-ports: '8000'}", {8000}),
        ("{inference.networking.k8s.io/active-ports: '8001', llm-d.ai/active-ports: ''}", set()),
    ],
)
def test_annotations_say_which_ports_are_active(annotations: str, ports: set[int] | None) -> None:
    pod = only(POD.replace("annotations: {}", f"annotations: {annotations}"))
    assert isinstance(pod, Pod)

    assert pod.active_ports == ports


def test_a_pod_that_is_being_deleted() -> None:
    pod = only(POD.replace("  uid: 5f0c", "  deletionTimestamp: 2026-11-21T09:00:00Z"))
    assert isinstance(pod, Pod)

    assert pod.deleted


def test_a_pool_that_is_being_deleted_is_none() -> None:
    assert read(POOL.replace("metadata:", "metadata:\n  deletionTimestamp: 2026-11-21T09:00:00Z")).objects == ()


@pytest.mark.parametrize("version", ["inference.networking.x-k8s.io/v1alpha2", "llm-d.ai/v1alpha2"])
def test_an_objective(version: str) -> None:
    text = f"apiVersion: {version}\nkind: InferenceObjective\nmetadata: {{name: batch, namespace: lab}}\nspec:\n"
    batch = ObjectiveApplied("lab/llama", "batch", -2, "f.yaml")
    assert only(f"{text}  priority: -2\n  poolRef: {{name: llama}}\n") == batch
    assert only(text + "  poolRef: {name: llama, group: x, kind: y}\n") == ObjectiveApplied(
        "lab/llama", "batch", 0, "f.yaml"
    )


def test_other_kinds_are_left_alone() -> None:
    others = (
        "apiVersion: apps/v1\nkind: Deployment\nspec: {replicas: three}\n",
        "apiVersion: v1\nkind: ConfigMap\ndata: {a: 1}\n",
        "apiVersion: inference.networking.x-k8s.io/v1alpha1\nkind: EndpointPickerConfig\nplugins: []\n",
        "apiVersion: policy.linkerd.io/v1beta3\nkind: HTTPRoute\nmetadata: {name: m}\nspec: {rules: 5}\n",
        "apiVersion: metrics.k8s.io/v1\nkind: Pod\n",
    )

    assert read("---\n".join(others)) == Manifest("f.yaml")


def test_a_list_holds_objects() -> None:
    pods = [yaml.safe_load(POD), yaml.safe_load(POD.replace("llama-0", "llama-1").replace("5f0c", "77aa"))]
    manifest = read(yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": pods, "metadata": {}}))

    assert [found.name for found in manifest.objects] == ["default/llama-0", "default/llama-1"]


MUTATIONS: st.SearchStrategy[object] = st.sampled_from(
    [None, True, -1, 3.5, "x", "", [], [1], {}, {"a": {}}, "8000", {"name": 5}, [{}], "a" * 300]
)


@given(st.sampled_from([POOL, OLD_POOL, ROUTE, POD]), st.data())
def test_no_object_is_so_wrong_that_reading_it_fails_otherwise(text: str, data: st.DataObject) -> None:
    document = yaml.safe_load(text)
    holder: dict[object, object] | list[object] = document
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        inner = holder[key]  # type: ignore[call-overload]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            break
        holder = inner
    holder[key] = data.draw(MUTATIONS)  # type: ignore[call-overload]
    written = yaml.safe_dump(document)
    line = 1
    try:
        read(written)
    except DocumentError as error:
        line = error.line
    assert 1 <= line <= written.count("\n")
