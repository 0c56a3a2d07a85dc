"""What an entry of the log says, in a sentence; endpoints by name."""

from collections.abc import Mapping
from typing import assert_never

import msgspec

from pointsman.core import events
from pointsman.core.events import Event, Origin
from pointsman.core.values.facts import Applied, Deleted, subject
from pointsman.core.values.packing import unpack, unpack_floats
from pointsman.web.console import short_name
from pointsman.web.drawing import words

Names = Mapping[int, str]
"""Names of endpoints by number."""

FEW = 6
"""Endpoints that a sentence tells of one by one."""


def numbers_in(event: Event) -> list[int]:
    """The endpoints that an event is about."""
    match event:
        case events.RequestRouted(endpoints=chosen):
            return list(chosen)
        case events.LoadSampled(endpoints=packed) | events.ScrapeFailed(endpoints=packed):
            return [int(number) for number in unpack(packed)]
        case (
            events.EndpointJoined(endpoint=number)
            | events.EndpointChanged(endpoint=number)
            | events.EndpointLeft(endpoint=number)
            | events.LabelsChanged(endpoint=number)
            | events.ServerStarted(endpoint=number)
        ):
            return [number]
        case _:
            return []


def sentence(event: Event, names: Names) -> str:
    """The entry in words, with a full stop."""
    match event:
        case events.RequestRouted() | events.RequestRefused() | events.ResponseStarted() | events.RequestFinished():
            return _traffic(event, names)
        case (
            events.LoadSampled()
            | events.LabelsChanged()
            | events.ScrapeFailed()
            | events.ScrapePaced()
            | events.ServerStarted()
        ):
            return _load(event, names)
        case events.WeightsIntended() | events.WeightsWritten() | events.WeightsRefused():
            return _weights(event)
        case (
            events.EndpointJoined()
            | events.EndpointChanged()
            | events.EndpointLeft()
            | events.SourceAccepted()
            | events.SourceRejected()
            | Applied()
            | Deleted()
        ):
            return _membership(event, names)
        case _:
            return _control(event)


def _traffic(
    event: events.RequestRouted | events.RequestRefused | events.ResponseStarted | events.RequestFinished, names: Names
) -> str:
    match event:
        case events.RequestRouted(request=facts, endpoints=chosen, degraded=degraded):
            others = f", then {', '.join(_name(n, names) for n in chosen[1:])}" if len(chosen) > 1 else ""
            how = ", decided without a feed" if degraded else ""
            return f"A request for {facts.model or 'no model'} goes to {_name(chosen[0], names)}{others}{how}."
        case events.RequestRefused(request=facts, reason=reason, status=status):
            return f"A request for {facts.model or 'no model'} is refused with {status}: {reason}."
        case events.ResponseStarted(request_n=n, status=status, after=after, served=served):
            by = f" from {served}" if served else ""
            return f"The answer to request {n:,} begins with {status}{by}, after {words.duration(after)}."
        case events.RequestFinished(request_n=n, cause=cause, status=status, duration=duration):
            tokens = event.completion_tokens
            many = f", {words.plural(tokens, 'token')}" if tokens is not None else ""
            return f"Request {n:,} ends after {words.duration(duration)}: {cause}, status {status or 'none'}{many}."
        case _:
            assert_never(event)


def _load(
    event: events.LoadSampled | events.LabelsChanged | events.ScrapeFailed | events.ScrapePaced | events.ServerStarted,
    names: Names,
) -> str:
    match event:
        case events.LoadSampled(endpoints=packed):
            numbers = unpack(packed).tolist()
            columns = zip(numbers, unpack(event.waiting).tolist(), unpack_floats(event.kv_cache).tolist(), strict=True)
            told = [
                f"{_name(n, names)} has {waiting} waiting, KV {words.percent(used, 0)}" for n, waiting, used in columns
            ]
            return _list(told, "endpoint") + "."
        case events.ScrapeFailed(endpoints=packed, ages=ages, causes=causes):
            why = dict(causes)
            told = []
            for number, age in zip(unpack(packed).tolist(), unpack(ages).tolist(), strict=True):
                old = "never read" if age == events.NEVER_SAMPLED else f"last read {words.duration(age / 1000)} ago"
                cause = f" ({why[number]})" if number in why else ""
                told.append(f"{_name(number, names)} cannot be read, {old}{cause}")
            return _list(told, "endpoint") + "."
        case events.LabelsChanged(endpoint, running, waiting):
            held = ", ".join(running) or "no adapter"
            queue = f", {', '.join(waiting)} waits" if waiting else ""
            return f"{_name(endpoint, names)} runs {held}{queue}."
        case events.ScrapePaced(interval, threshold):
            return f"Servers are read every {words.duration(interval)}; a sample is stale after {words.duration(threshold)}."
        case events.ServerStarted(endpoint):
            return f"The server of {_name(endpoint, names)} has started anew: what it held before is gone."
        case _:
            assert_never(event)


def _weights(event: events.WeightsIntended | events.WeightsWritten | events.WeightsRefused) -> str:
    match event:
        case events.WeightsIntended(route=route, rule=rule, before=before, after=after, actor=actor, reason=reason):
            moves = ", ".join(
                f"{short_name(new.pool)} {old.weight} → {new.weight}"
                for old, new in zip(before, after, strict=False)
                if old.weight != new.weight
            )
            return f"{actor} wants {moves} in {short_name(route)}, rule {rule + 1}: “{reason}”."
        case events.WeightsWritten(change):
            return f"Change {change} is written and read back."
        case events.WeightsRefused(change, cause):
            return f"Change {change} was not made: {cause}."
        case _:
            assert_never(event)


def _membership(
    event: events.EndpointJoined
    | events.EndpointChanged
    | events.EndpointLeft
    | events.SourceAccepted
    | events.SourceRejected
    | Applied
    | Deleted,
    names: Names,
) -> str:
    match event:
        case events.EndpointJoined(pool=pool, name=name, address=address, port=port, ready=ready):
            state = "ready" if ready else "not ready yet"
            return f"{name}:{port} at {address} joins {short_name(pool)}, {state}."
        case events.EndpointChanged(endpoint=number, ready=ready):
            return f"{_name(number, names)} is {'ready' if ready else 'not ready'}."
        case events.EndpointLeft(endpoint=number, cause=cause):
            return f"{_name(number, names)} leaves{f': {cause}' if cause else ''}."
        case events.SourceAccepted(source, warnings):
            return f"{source} is read{': ' + '; '.join(warnings) if warnings else ''}."
        case events.SourceRejected(source, line, message):
            at = f", line {line}" if line else ""
            return f"{source}{at} is wrong: {message}; what it said before stays in force."
        case events.RouteObserved(route=route, rules=rules, source=source):
            weights = "; ".join(", ".join(f"{short_name(b.pool)} {b.weight}" for b in r.backends) for r in rules)
            return f"HTTPRoute {route} divides {weights or 'nothing'}, as {source or 'its source'} says."
        case events.PoolApplied(pool=pool, selector=selector, target_ports=ports, source=source):
            labels = ", ".join(f"{k}={v}" for k, v in sorted(selector.items()))
            where = f", as {source} says" if source else ""
            return (
                f"InferencePool {pool} takes pods with {labels or 'any labels'} on {', '.join(map(str, ports))}{where}."
            )
        case events.ObjectiveApplied(pool=pool, name=name, priority=priority):
            return f"InferenceObjective {name} has priority {priority} in {pool}."
        case Applied() | Deleted():
            return f"{told(event)}." if isinstance(event, Applied) else f"{told(event)} is gone."
        case _:
            assert_never(event)


def _control(
    event: events.FeedLost
    | events.FeedRestored
    | events.OpenRequestsListed
    | events.PickerStarted
    | events.PickerEnded
    | events.EntriesLost
    | events.EntriesAdopted
    | events.LogCreated
    | events.ConfigAccepted
    | events.PrefixBlockSized
    | events.NotedEvent,
) -> str:
    match event:
        case events.FeedLost(origin, _, cause):
            return f"{origin.picker} decides without a feed from here on: {cause}."
        case events.FeedRestored(origin, _, lost_for):
            return f"{origin.picker} is fed again, after {words.duration(lost_for)}."
        case events.OpenRequestsListed(origin, open):
            count = words.plural(len(unpack(open)), "request")
            return f"{origin.picker} says which {count} are open after a gap; the others have ended."
        case events.PickerStarted(origin, build):
            return f"Picker process {origin.picker} starts, build {build}."
        case events.PickerEnded(picker, _, cause):
            return f"Picker process {picker} ends: {cause}."
        case events.EntriesLost(picker, _, first, last):
            return f"{words.plural(last - first + 1, 'entry', 'entries')} of {picker} were lost: {first:,} to {last:,}."
        case events.EntriesAdopted(picker, _, first, last, log_id):
            return f"Entries {first:,} to {last:,} of {picker} were decided on log {log_id}."
        case events.LogCreated(log_id, build):
            return f"Log {log_id} begins, build {build}."
        case events.ConfigAccepted(pool, _, source):
            of = "all pools" if pool == "*" else short_name(pool)
            return f"The configuration of {of} comes from {source}."
        case events.PrefixBlockSized(pool, tokens, before):
            was = f", {before:,} before" if before else ""
            return f"Prompts for {short_name(pool)} are hashed in blocks of {words.plural(tokens, 'token')}{was}."
        case events.ConfigRejected(pool, source, line, message):
            at = f", line {line}" if line else ""
            return f"{source}{at} is no configuration: {message}; what was in force stays."
        case events.ControlStarted(build, pid, head):
            return f"The control process starts at #{head:,}, build {build}, process {pid}."
        case events.ControlStopped(pid, cause):
            return f"The control process stops: {cause}, process {pid}."
        case events.ClockStepped(seconds):
            way = "forward" if seconds > 0 else "back"
            return f"The clock stepped {way} by {words.duration(abs(seconds))}."
        case events.ProcessStarted(name, pid):
            return f"Process {name} starts, number {pid}."
        case events.ProcessEnded(name, pid, cause):
            return f"Process {name} ends: {cause}, number {pid}."
        case events.SegmentDropped():
            return f"A segment of the log goes, as it is old or large: {_listed(msgspec.structs.asdict(event))}."
        case _:
            assert_never(event)


def _name(number: int, names: Names) -> str:
    return names.get(number, f"endpoint {number}")


def _list(told: list[str], noun: str) -> str:
    if len(told) <= FEW:
        return "; ".join(told) or f"No {noun}"
    return f"{'; '.join(told[:FEW])}; and {words.plural(len(told) - FEW, 'other ' + noun)}"


# --- field by field -----------------------------------------------------------------------------------


def told(event: Event | Applied | Deleted) -> str:
    """The fields of an event in a line; for an object, its name and the fields that are not its key."""
    fields = {name: value for name, value in msgspec.structs.asdict(event).items() if not _empty(value)}
    if not isinstance(event, Applied | Deleted):
        return _listed(fields)
    rest = {name: value for name, value in fields.items() if name not in event.key_fields()}
    return f"{subject(event)}: {_listed(rest)}" if rest else subject(event)


def _listed(fields: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in fields.items())


def _empty(value: object) -> bool:
    return value is None or value in ("", (), {}, b"")


def _value(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 16 else f"{len(value)} bytes"
    if isinstance(value, Origin):
        return f"{value.picker} n {value.n:,} applied #{value.applied:,}"
    if isinstance(value, msgspec.Struct):
        fields = msgspec.structs.asdict(value).items()
        return "(" + ", ".join(f"{k} {_value(v)}" for k, v in fields if not _empty(v)) + ")"
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(v) for v in value[:4]) + (", …" if len(value) > 4 else "") + "]"
    if isinstance(value, float):
        return words.moment(value) if 1e8 <= value <= 1e10 else f"{value:.6g}"  # times of this age, and other numbers
    return str(value)
