"""Files that are wrong, or of another program, hold back what the log attributes to them, and nothing else."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pointsman.cluster.manifests.source_files import FileFault, SourceFile, settle, wanted_of
from pointsman.cluster.objects.difference import Roster
from pointsman.cluster.objects.manifest import read_manifest
from pointsman.cluster.objects.yaml_document import DocumentError
from pointsman.core.events import EndpointJoined, Event, ObjectiveApplied, decode, encode
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import decode_snapshot, encode_snapshot

POOL = """\
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: p}
spec: {selector: {matchLabels: {app: p}}, targetPorts: [{number: 8000}]}
---
"""
WRONG = "kind: Pod\napiVersion: [\n"
STRAY: Mapping[str, str] = {
    "kustomization.yaml": "resources:\n- pool.yaml\n- pods.yaml\nnamespace: team\n",
    "values.yaml": "inferencePool:\n  targetPortNumber: 8000\n",
    "prometheus-rules.yaml": "groups:\n- name: epp\n  rules: []\n",
    "docker-compose.yml": "services:\n  vllm: {image: vllm/vllm-openai}\n",
    "grafana.json": '{"panels":[],"title":"x"}',
    "Chart.yaml": "apiVersion: v2\nname: llama\nversion: 0.1.0\n",
    "patch.yaml": "- {op: remove, path: /spec}\n",
}
TEMPLATE = "metadata:\n  name: {{ .Release.Name }}\n"


def pod(name: str) -> str:
    return f"""\
apiVersion: v1
kind: Pod
metadata: {{name: {name}, uid: uid-{name}, labels: {{app: p}}}}
status: {{podIP: 10.0.0.{ord(name[-1])}, conditions: [{{type: Ready, status: "True"}}]}}
---
"""


def objective(name: str) -> str:
    return f"""\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {{name: {name}}}
spec: {{priority: 1, poolRef: {{name: p}}}}
---
"""


def route(name: str) -> str:
    return f"""\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}}}
spec: {{rules: [{{backendRefs: [{{group: inference.networking.k8s.io, kind: InferencePool, name: p}}]}}]}}
---
"""


class Process:
    """A process that reads a directory; a restart begins another one on the same log."""

    def __init__(self, state: ClusterState | None = None) -> None:
        self.state = state or ClusterState()
        self.files: dict[str, SourceFile] = {}
        self.roster = Roster(self.state)
        self.faults: Mapping[str, FileFault] = {}

    def look(self, directory: Mapping[str, str]) -> list[Event]:
        """Read what the directory holds, and fold what that changes, from the events' bytes."""
        for name in self.files.keys() - directory.keys():
            del self.files[name]
        for name, text in directory.items():
            file = self.files.setdefault(name, SourceFile(name))
            file.changed = True
            try:
                file.manifest, file.fault = read_manifest(name, text.encode()), None
            except DocumentError as error:
                file.manifest, file.fault = None, FileFault(error.line, error.message)
        settled = settle(self.files.values())
        self.faults = settled.faults
        events = [decode(encode(e)) for e in self.roster.change_to(wanted_of(settled, self.roster)).events]
        for event in events:
            self.state.apply_event(self.state.position + 1, event)
        return events

    def restart(self) -> "Process":
        return Process(decode_snapshot(encode_snapshot(self.state)))

    def names(self) -> set[str]:
        """Pods, objectives and routes, by name."""
        state = self.state
        pods = {e.name for e in state.endpoints.values()}
        return pods | {name for _, name in state.objectives} | {r.partition("/")[2] for r in state.routes}


@pytest.mark.parametrize(("name", "text"), STRAY.items())
def test_a_file_of_another_program_is_left_alone_with_a_warning_and_removals_go_on(name: str, text: str) -> None:
    process = Process()
    process.look({"pool.yaml": POOL, "pods.yaml": pod("a") + pod("b"), name: text})
    process.look({"pool.yaml": POOL, "pods.yaml": pod("a"), name: text})

    assert (process.names(), process.faults) == ({"a"}, {})
    (warning,) = read_manifest(name, text.encode()).warnings
    assert warning.startswith("line 1: ")
    assert "left alone" in warning


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n", "found 'a', wanted an object with apiVersion and kind"),
        ("apiVersion: llm-d.ai/v1alpha2\n---\nkind: Pod\n", "kind: is missing, wanted text"),
    ],
)
def test_half_a_manifest_and_one_of_our_groups_without_its_kind_are_wrong(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as raised:
        read_manifest("f.yaml", text.encode())

    assert (raised.value.line, raised.value.message) == (1, message)


@pytest.mark.parametrize("text", [TEMPLATE, WRONG, "apiVersion: inference.networking.k8s.io/v1\nmetadata: {name: x}\n"])
def test_a_file_that_was_never_right_does_not_hold_what_others_let_go(text: str) -> None:
    everything = pod("a") + pod("b") + objective("o") + route("r")
    process = Process()
    process.look({"pool.yaml": POOL, "rest.yaml": everything, "wrong.yaml": text})
    process.look({"pool.yaml": POOL, "rest.yaml": pod("a"), "wrong.yaml": text})

    assert set(process.faults) == {"wrong.yaml"}
    assert process.names() == {"a"}


def test_after_a_restart_a_wrong_file_holds_what_it_said_until_it_is_right_or_deleted() -> None:
    said = pod("a") + objective("o") + route("r")
    first = Process()
    first.look({"pool.yaml": POOL, "ours.yaml": said, "pods.yaml": pod("b")})
    process = first.restart()
    process.look({"pool.yaml": POOL, "ours.yaml": WRONG, "pods.yaml": ""})
    assert process.names() == {"a", "o", "r"}
    fixed, deleted = process.restart(), process.restart()
    fixed.look({"pool.yaml": POOL, "ours.yaml": pod("a")})
    deleted.look({"pool.yaml": POOL})

    assert fixed.names() == {"a"}
    assert deleted.names() == set()


def test_what_a_wrong_file_held_follows_its_pool_and_yields_to_a_right_file() -> None:
    first = Process()
    first.look({"pool.yaml": POOL, "ours.yaml": pod("a") + pod("b")})
    process = first.restart()
    process.look({"pool.yaml": POOL, "ours.yaml": WRONG, "pods.yaml": pod("a").replace("uid-a", "new")})
    assert {(e.name, e.uid) for e in process.state.endpoints.values()} == {("a", "new"), ("b", "uid-b")}
    process.look({"pool.yaml": POOL.replace("8000", "8001"), "ours.yaml": WRONG})

    assert process.names() == set()


def test_a_pod_that_moves_to_another_file_is_that_files_from_then_on() -> None:
    first = Process()
    first.look({"pool.yaml": POOL, "one.yaml": pod("a"), "two.yaml": ""})
    first.look({"pool.yaml": POOL, "one.yaml": "", "two.yaml": pod("a")})
    process = first.restart()
    process.look({"pool.yaml": POOL, "one.yaml": "", "two.yaml": WRONG})
    assert process.names() == {"a"}
    process.look({"pool.yaml": POOL, "one.yaml": WRONG})

    assert process.names() == set()


def test_what_an_older_log_does_not_attribute_stays_until_all_files_are_right() -> None:
    process = Process()
    process.look({"pool.yaml": POOL})
    old: list[Event] = [
        EndpointJoined(1, "default/p", "uid-a", "default", "a", "10.0.0.1", 8000, 0, {"app": "p"}),
        ObjectiveApplied("default/p", "o", 1),
    ]
    for event in old:
        process.state.apply_event(process.state.position + 1, event)
    process = process.restart()
    process.look({"pool.yaml": POOL, "wrong.yaml": WRONG})
    assert process.names() == {"a", "o"}
    process.look({"pool.yaml": POOL})

    assert process.names() == set()


def test_events_and_members_written_without_a_source_keep_their_bytes_in_snapshots() -> None:
    state = ClusterState()
    state.apply_event(1, EndpointJoined(1, "default/p", "u", "default", "a", "10.0.0.1", 8000))
    written = encode_snapshot(state)

    assert b"\xa6source" not in written
    assert encode_snapshot(decode_snapshot(written)) == written
    shortened = msgspec.msgpack.encode(msgspec.msgpack.decode(encode(ObjectiveApplied("default/p", "o", 1)))[:4])
    assert decode(shortened) == ObjectiveApplied("default/p", "o", 1)


class StrayFiles(RuleBasedStateMachine):
    """Each file may hold objects of its own names, so that the model is one set for each file."""

    def __init__(self) -> None:
        super().__init__()
        self.process = Process()
        self.directory = {"pool.yaml": POOL}
        self.said: dict[str, set[str]] = {}
        self.process.look(self.directory)

    @rule(file=st.sampled_from("xyz"), kinds=st.frozensets(st.sampled_from("abor")))
    def write(self, file: str, kinds: frozenset[str]) -> None:
        makers = {"a": pod, "b": pod, "o": objective, "r": route}
        names = {kind: f"{file}{kind}" for kind in kinds}
        self.directory[file] = "".join(makers[kind](name) for kind, name in sorted(names.items()))
        self.said[file] = set(names.values())

    @rule(file=st.sampled_from("xyz"))
    def spoil(self, file: str) -> None:
        self.directory[file] = WRONG
        self.said.setdefault(file, set())

    @rule(file=st.sampled_from("xyz"))
    def delete(self, file: str) -> None:
        self.directory.pop(file, None)
        self.said.pop(file, None)

    @rule(file=st.sampled_from("xyz"), text=st.sampled_from(list(STRAY.values())))
    def stray(self, file: str, text: str) -> None:
        self.directory[file] = text
        self.said[file] = set()

    @rule()
    def restart(self) -> None:
        self.process = self.process.restart()

    @invariant()
    def what_is_there_is_what_each_file_said_when_it_last_was_right(self) -> None:
        self.process.look(self.directory)

        assert self.process.names() == set().union(*self.said.values())
        assert self.process.look(self.directory) == []


TestStrayFiles = StrayFiles.TestCase
TestStrayFiles.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)
