"""A kind of object is declared once, by its events and the form of its manifests; everything else follows."""

from typing import TypeAlias, get_args

import msgspec
import pytest

from pointsman.cluster.manifests.source_files import FileFault, SourceFile, settle, wanted_of
from pointsman.cluster.objects.difference import Changes, Roster
from pointsman.cluster.objects.fields import Part
from pointsman.cluster.objects.forms import FORMS
from pointsman.cluster.objects.forms.form import ManifestForm, ManifestPlace
from pointsman.cluster.objects.manifest import read_manifest
from pointsman.core.events import AppliedEvent, DeletedEvent, Event, encode
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.snapshot import ClusterSnapshot, encode_snapshot, restore
from pointsman.core.values.facts import Applied, Deleted
from pointsman.web.pages.sentences import told

# --- a kind that does not exist: its events, and its form -------------------------------------------


class SignalDeleted(Deleted, frozen=True, tag="signal-deleted"):
    noun = "Signal"
    line: str
    name: str


class SignalApplied(Applied, frozen=True, tag="signal-applied"):
    deletion = SignalDeleted
    line: str
    name: str
    colour: str
    source: str = ""


def read_signal(root: Part, place: ManifestPlace) -> SignalApplied:
    spec = root.needed_part("spec")
    line, colour = spec.text("line"), spec.text("colour")
    spec.done()
    return SignalApplied(line, place.name, colour, place.source)


# --- what the unions of `core/events/` would say with it ------------------------------------------

WiderEvent: TypeAlias = Event | SignalApplied | SignalDeleted


class WiderSnapshot(ClusterSnapshot, frozen=True):
    objects: list[AppliedEvent | SignalApplied] = msgspec.field(name="routes")  # type: ignore[assignment]


decode = msgspec.msgpack.Decoder[WiderEvent](WiderEvent).decode
decode_snapshot = msgspec.msgpack.Decoder(WiderSnapshot).decode

SIGNAL = """\
apiVersion: railway.example/v1
kind: Signal
metadata: {name: a, namespace: yard}
spec: {line: north, colour: green}
"""


def fold(state: ClusterState, changes: Changes) -> list[WiderEvent]:
    """Fold the events as the log would: from their bytes."""
    events = [decode(encode(event)) for event in changes.events]
    for event in events:
        state.apply_event(state.position + 1, event)
    return events


def reread(file: SourceFile, text: str | None) -> None:
    """The file holds this; None where it cannot be read any more."""
    file.changed = True
    file.fault = FileFault(1, "wrong") if text is None else None
    file.manifest = None if text is None else read_manifest(file.name, text.encode())


def test_two_declarations_take_a_new_kind_from_its_manifest_to_its_deletion(monkeypatch: pytest.MonkeyPatch) -> None:
    form = ManifestForm(SignalApplied, "Signal", read_signal)  # type: ignore[arg-type]  # not in the union
    monkeypatch.setitem(FORMS, SignalApplied, form)  # type: ignore[misc]
    state, file = ClusterState(), SourceFile("yard.yaml")
    roster = Roster(state)

    def change(text: str | None) -> list[WiderEvent]:
        reread(file, text)
        return fold(state, roster.change_to(wanted_of(settle([file]), roster)))

    green = SignalApplied("north", "yard/a", "green", "yard.yaml")
    red = msgspec.structs.replace(green, colour="red")

    assert change(SIGNAL) == [green]
    assert change(SIGNAL) == []
    assert change(SIGNAL.replace("green", "red")) == [red]
    assert told(red) == "Signal north/yard/a: colour red, source yard.yaml"

    written = encode_snapshot(state)
    state = restore(decode_snapshot(written))
    restored: list[object] = list(state.objects)
    assert (restored, encode_snapshot(state)) == ([red], written)

    roster, file = Roster(state), SourceFile("yard.yaml")  # a restart, with a file that is wrong since
    assert change(None) == []
    assert change("") == [SignalDeleted("north", "yard/a")]
    assert list(state.objects) == []
    assert told(SignalDeleted("north", "yard/a")) == "Signal north/yard/a"


# --- the kinds that exist ---------------------------------------------------------------------------


def test_every_kind_has_two_events_of_one_key_and_no_other_kind_has_either() -> None:
    applied, deleted = get_args(AppliedEvent), get_args(DeletedEvent)

    assert [kind.deletion for kind in applied] == list(deleted)
    assert len(set(deleted)) == len(deleted)
    for kind in applied:
        fields = kind.deletion.__struct_fields__
        assert kind.__struct_fields__[: len(fields)] == fields
        assert len(kind.__struct_fields__) > len(fields)


def test_every_event_that_applies_or_deletes_an_object_is_in_its_union() -> None:
    events = get_args(Event)

    assert {event for event in events if issubclass(event, Applied)} == set(get_args(AppliedEvent))
    assert {event for event in events if issubclass(event, Deleted)} == set(get_args(DeletedEvent))


def test_every_kind_has_a_form_and_every_form_a_kind() -> None:
    assert set(FORMS) == set(get_args(AppliedEvent))
    assert [form.applied for form in FORMS.values()] == list(FORMS)


@pytest.mark.parametrize(
    ("version", "kind", "instead"),
    [
        ("inference.networking.x-k8s.io/v1alpha2", "InferenceModel", "requests for its model name keep that name"),
        ("inference.networking.x-k8s.io/v1alpha2", "InferenceModelRewrite", "requests keep the model that they name"),
        ("gateway.networking.k8s.io/v1", "Gateway", "the gateway listens where the flags of `serve` say"),
        ("gateway.networking.x-k8s.io/v1alpha1", "XBackendTrafficPolicy", "objects of this kind are not read"),
        ("llm-d.ai/v1alpha2", "Novelty", "objects of this kind are not read"),
    ],
)
def test_a_kind_of_our_groups_that_is_not_read_is_warned_of(version: str, kind: str, instead: str) -> None:
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: m}}\nspec: {{a: [1]}}\n"
    manifest = read_manifest("f.yaml", text.encode())

    [warning] = manifest.warnings
    assert warning.startswith(f"line 2: kind: a {kind} has no effect: {instead}")
    assert manifest.objects == ()
