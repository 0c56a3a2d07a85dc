"""Verifying a decision: computing it again from the cluster state it had and its own entry."""

from typing import Literal

import msgspec

from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.explanation import Explanation, explain
from pointsman.core.deciding.profile import PLUGIN_VERSIONS, profile_in_force
from pointsman.core.deciding.refusals import refusal
from pointsman.core.deciding.scheduler import SCHEDULER_VERSION, trace
from pointsman.core.events import Read, RequestRefused, RequestRouted
from pointsman.core.state.membership import Epoch
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column, NotRecordedError, RecordedTraffic
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import unpack

VerdictKind = Literal["ok", "differs", "not-scheduled", "other-version", "other-log"]


class Verdict(msgspec.Struct, frozen=True):
    """What came of verifying a decision."""

    kind: VerdictKind
    field: str = ""
    """The first that differs."""
    recorded: str = ""
    computed: str = ""
    cause: str = ""
    """Why it was not computed again."""

    @property
    def message(self) -> str:
        """In words."""
        if self.kind == "differs":
            return f"{self.field} differs: recorded {self.recorded}, computed {self.computed}"
        return self.cause or "the same"


OK = Verdict("ok")


def verify_decision(
    cluster: ClusterState, event: RequestRouted | RequestRefused, epoch: Epoch | None = None
) -> Verdict:
    """Compute the decision again; `cluster` is the state at its `applied`.

    `epoch` tells the versions it was made with, where the cluster state does not know them yet.
    """
    if isinstance(event, RequestRefused) and not refusal(event.reason).scheduled and not event.digest:
        return Verdict("not-scheduled", cause=f"refused before scheduling: {event.reason}")
    origin = event.origin
    known = cluster.epochs.get((origin.picker, origin.epoch)) or epoch
    for told in (known, epoch):
        if told is not None and told.adopted_to >= origin.n:
            return Verdict("other-log", cause="it rests on the cluster state of another log")
    if origin.applied != cluster.position:
        return _differs("applied", str(origin.applied), f"a cluster state at {cluster.position}")
    if (cause := _made_by_others(cluster, event, known)) is not None:
        return Verdict("other-version", cause=cause)
    try:
        traffic = _recorded(event)
        profile = profile_in_force(cluster, event.request.pool)
        # from nothing: what `schedule` keeps between decisions is verified along with it
        decision, _ = trace(cluster, traffic, profile, event.request, _draws(event))
    except NotRecordedError as error:
        return _differs("reads", _reads(event.reads), str(error))
    except ValueError as error:  # what is packed in the entry cannot be unpacked
        return _differs("entry", "packed values", str(error))
    return _compare(event, decision)


def explain_decision(cluster: ClusterState, event: RequestRouted | RequestRefused) -> Explanation:
    """Everything about a decision that `verify_decision` finds the same; `NotRecordedError` where it cannot be told."""
    profile = profile_in_force(cluster, event.request.pool)
    return explain(cluster, _recorded(event), profile, event.request, _draws(event))


def _recorded(event: RequestRouted | RequestRefused) -> RecordedTraffic:
    return RecordedTraffic(event.reads, unpack(event.avoided), event.degraded)


def _draws(event: RequestRouted | RequestRefused) -> Draws:
    return Draws(event.origin.picker, event.origin.epoch, event.origin.n)


def _made_by_others(cluster: ClusterState, event: RequestRouted | RequestRefused, epoch: Epoch | None) -> str | None:
    """Why this build does not compute the decision; None where it does."""
    try:
        profile = profile_in_force(cluster, event.request.pool)
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        return f"this build does not know its configuration: {error}"
    if epoch is None or not epoch.scheduler:
        return None
    if epoch.scheduler != SCHEDULER_VERSION:
        return f"made by version {epoch.scheduler} of the scheduler, this is version {SCHEDULER_VERSION}"
    for type in sorted(profile.types):
        if (version := epoch.plugins.get(type)) != PLUGIN_VERSIONS.get(type):
            made = "a build without" if version is None else f"version {version} of"
            return f"made by {made} {type}, this is version {PLUGIN_VERSIONS.get(type)}"
    return None


def _differs(field: str, recorded: str, computed: str) -> Verdict:
    return Verdict("differs", field, recorded, computed)


def _reads(reads: tuple[Read, ...]) -> str:
    known = {int(column): column.name.lower() for column in Column}
    return ", ".join(f"{known.get(read.column, read.column)} {read.values.hex()}" for read in reads) or "none"


def _outcome(reason: str | None, status: int, message: str) -> str:
    return "routed" if reason is None else f"{reason} ({status} {message})"


def _compare(event: RequestRouted | RequestRefused, decision: Decision) -> Verdict:
    """The first difference between what was recorded and what was computed."""
    recorded = _outcome(event.reason, event.status, event.message) if isinstance(event, RequestRefused) else "routed"
    computed = _outcome(decision.reason, decision.status, decision.message)
    if recorded != computed:
        return _differs("outcome", recorded, computed)
    if isinstance(event, RequestRouted):
        if event.endpoints != decision.endpoints:
            return _differs("endpoints", str(event.endpoints), str(decision.endpoints))
        if event.best != decision.best:
            return _differs("best", str(event.best), str(decision.best))
    if event.rejections != decision.rejections:
        return _differs("rejections", str(event.rejections), str(decision.rejections))
    if event.avoided != decision.avoided:
        return _differs("avoided", event.avoided.hex(), decision.avoided.hex())
    if event.reads != decision.reads:
        return _differs("reads", _reads(event.reads), _reads(decision.reads))
    if event.degraded != decision.degraded:
        return _differs("degraded", str(event.degraded), str(decision.degraded))
    if event.digest != decision.digest:
        return _differs("digest", event.digest.hex(), decision.digest.hex())
    return OK
