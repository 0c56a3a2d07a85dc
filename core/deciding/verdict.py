"""Verifying a decision: computing it again from the cluster state it had and its own entry."""

from enum import StrEnum

import msgspec

from pointsman.core.deciding.decision import Decision
from pointsman.core.deciding.explanation import Explanation, explain
from pointsman.core.deciding.profile import PLUGIN_VERSIONS, profile_in_force
from pointsman.core.deciding.refusals import refusal
from pointsman.core.deciding.scheduler import SCHEDULER_VERSION, trace
from pointsman.core.deciding.telling.flips import Flip, flips
from pointsman.core.deciding.telling.why import briefly
from pointsman.core.events import Read, RequestRefused, RequestRouted
from pointsman.core.state.membership import Epoch
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import Column, NotRecordedError, RecordedTraffic
from pointsman.core.values.draws import Draws
from pointsman.core.values.packing import unpack


class VerdictKind(StrEnum):
    """What came of verifying a decision; the values stand in JSON output."""

    SAME = "ok"
    DIFFERS = "differs"
    NOT_SCHEDULED = "not-scheduled"
    OTHER_VERSION = "other-version"
    OTHER_LOG = "other-log"
    NOT_KEPT = "not-kept"
    UNAVAILABLE = "unavailable"
    """Nobody could be asked, this time; all others stay true."""

    @property
    def words(self) -> "VerdictWords":
        """What people read."""
        return WORDS[self]

    @property
    def compared(self) -> bool:
        """Whether the decision was computed by the formulas that made it, and compared."""
        return self in (VerdictKind.SAME, VerdictKind.DIFFERS)

    @property
    def computed(self) -> bool:
        """Whether it was computed at all, be it by other formulas."""
        return self.compared or self is VerdictKind.OTHER_VERSION


class VerdictWords(msgspec.Struct, frozen=True):
    """What people read of a kind of verdict."""

    tag: str
    """Name of it in two words, for a tag beside a title."""
    opening: str
    """Beginning of the sentence that says it; a colon and the message follow."""
    message: str = ""
    """What there is to say where the verdict itself knows nothing more particular."""


WORDS: dict[VerdictKind, VerdictWords] = {
    VerdictKind.SAME: VerdictWords("verified", "verified", "computed again, it is the same to the last bit"),
    VerdictKind.DIFFERS: VerdictWords("differs", "NOT VERIFIED"),
    VerdictKind.NOT_SCHEDULED: VerdictWords("not scheduled", "nothing to compute again", "refused before scheduling"),
    VerdictKind.OTHER_VERSION: VerdictWords("other version", "computed again with this version's formulas"),
    VerdictKind.OTHER_LOG: VerdictWords(
        "not verifiable", "not computed again", "made on the cluster state of another log"
    ),
    VerdictKind.NOT_KEPT: VerdictWords(
        "not verifiable",
        "not computed again",
        "no longer verifiable: the cluster state it was made on is not kept",
    ),
    VerdictKind.UNAVAILABLE: VerdictWords("not verifiable", "not computed again", "replay gave no answer"),
}


class Verdict(msgspec.Struct, frozen=True):
    """What came of verifying a decision."""

    kind: VerdictKind
    field: str = ""
    """First field that differs."""
    recorded: str = ""
    computed: str = ""
    cause: str = ""
    """Reason why it was not compared, where its kind alone does not tell."""

    @property
    def message(self) -> str:
        """What differs, or why it was not compared."""
        if self.kind is VerdictKind.DIFFERS:
            return f"{self.field} differs: recorded {self.recorded}, computed {self.computed}"
        return self.cause or self.kind.words.message

    @property
    def sentence(self) -> str:
        """All of it in words, without a full stop."""
        return f"{self.kind.words.opening}: {self.message}"


OK = Verdict(VerdictKind.SAME)


def verify_decision(
    cluster: ClusterState, event: RequestRouted | RequestRefused, epoch: Epoch | None = None
) -> Verdict:
    """Compute the decision again; `cluster` is the state at its `applied`.

    `epoch` tells the versions it was made with; without it the cluster state does, unless it does not know them yet.
    """
    if isinstance(event, RequestRefused) and not refusal(event.reason).scheduled and not event.digest:
        return Verdict(VerdictKind.NOT_SCHEDULED, cause=f"refused before scheduling: {event.reason}")
    origin = event.origin
    if origin.applied != cluster.position:
        return _differs("applied", str(origin.applied), f"a cluster state at {cluster.position}")
    made_by = cluster.epochs.get((origin.picker, origin.epoch)) if epoch is None else epoch
    if (cause := _made_by_others(cluster, event, made_by)) is not None:
        return Verdict(VerdictKind.OTHER_VERSION, cause=cause)
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


def explain_decision(cluster: ClusterState, event: RequestRouted | RequestRefused) -> Explanation | None:
    """Everything about a decision by this build's formulas; None where these or the entry do not suffice."""
    try:
        profile = profile_in_force(cluster, event.request.pool)
        return explain(cluster, _recorded(event), profile, event.request, _draws(event))
    except (KeyError, ValueError, NotRecordedError):  # what is wrong with it is the verdict's to say
        return None


def flips_of(cluster: ClusterState, event: RequestRouted | RequestRefused) -> tuple[Flip, ...]:
    """What would have changed the decision, by this build's formulas; none where these or the entry do not suffice."""
    try:
        return flips(cluster, profile_in_force(cluster, event.request.pool), event)
    except (KeyError, ValueError, NotRecordedError):
        return ()


def brief_reason(cluster: ClusterState, event: RequestRouted | RequestRefused) -> str:
    """Why in three words, by this build's formulas; empty where these or the entry do not suffice."""
    try:
        profile = profile_in_force(cluster, event.request.pool)
        decision, run = trace(cluster, _recorded(event), profile, event.request, _draws(event))
        return briefly(run, profile, decision)
    except (KeyError, ValueError, NotRecordedError):
        return ""


def _recorded(event: RequestRouted | RequestRefused) -> RecordedTraffic:
    return RecordedTraffic(event.reads, unpack(event.avoided), event.degraded)


def _draws(event: RequestRouted | RequestRefused) -> Draws:
    return Draws(event.origin.picker, event.origin.epoch, event.origin.n)


def _made_by_others(cluster: ClusterState, event: RequestRouted | RequestRefused, epoch: Epoch | None) -> str | None:
    """Why this build does not compute the decision; None where it does."""
    try:
        profile = profile_in_force(cluster, event.request.pool)
    except (KeyError, ValueError) as error:
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
    return Verdict(VerdictKind.DIFFERS, field, recorded, computed)


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
