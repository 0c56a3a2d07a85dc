"""A gateway's access log against the decisions: every request that a server answered has one, and the reverse.

A line is JSON, with the request's id under one of `IDS` at any depth, or text in Envoy's default format.
"""

import json
import re
from collections.abc import Iterable, Iterator
from datetime import datetime

import msgspec

from pointsman.core.events import Class, EndpointJoined, Entry
from pointsman.core.state.marks import FinishedMark, RoutedMark, skim
from pointsman.core.state.membership import authority_of
from pointsman.eventlog.errors import NotKeptError
from pointsman.eventlog.stores.reading import LogReader

IDS = ("request_id", "x-request-id", "x_request_id", "requestId", "x-request-id-header")
_SERVERS = ("endpoint", "upstream_host", "upstreamHost")
_TIMES = ("time", "start_time", "startTime", "timestamp")

MARGIN = 2.0
"""Seconds at either end of a log in which the other may not have a request yet, or no longer."""

LISTED = 100
"""Requests that are named of each kind."""

_QUOTED = re.compile(r'"([^"]*)"')
_BEGINS = re.compile(r"\[([^\]]+)\]")


class Served(msgspec.Struct, frozen=True):
    """One line: a request that the gateway sent to a server, or would have."""

    request_id: str
    at: float
    """Time at which the request began, seconds since 1970; 0 where the line does not say."""
    server: str
    """Address and port of the server; empty where none was asked."""


class AgainstReport(msgspec.Struct):
    """What came of the comparison."""

    lines: int = 0
    unread: int = 0
    """Count of lines without a request id."""
    served: int = 0
    """Count of requests that a server was asked for, since the log begins."""
    without_decision: int = 0
    after_end: int = 0
    """Count of those that began after the last entry of the log."""
    undecided: list[str] = []
    """The first LISTED request ids of them."""
    decided: int = 0
    """Count of routed and answered requests within the time that the access log covers."""
    without_line: int = 0
    unserved: list[str] = []
    """The first LISTED request ids of them."""
    elsewhere: int = 0
    """Count of requests that went to a server that no decision named for them."""


def read_line(line: str) -> Served | None:
    """What a line says; None where it names no request."""
    line = line.strip()
    if line.startswith("{"):
        try:
            found = json.loads(line)
        except ValueError:
            return None
        fields = dict(_flat(found))
        request_id = next((str(fields[name]) for name in IDS if fields.get(name)), "")
        server = next((str(fields[name]) for name in _SERVERS if fields.get(name)), "")
        at = next((fields[name] for name in _TIMES if fields.get(name)), "")
        return Served(request_id, _time(at), _address(server)) if request_id else None
    quoted = _QUOTED.findall(line)
    # "METHOD PATH PROTOCOL" … "X-FORWARDED-FOR" "USER-AGENT" "X-REQUEST-ID" "AUTHORITY" "UPSTREAM_HOST"
    if len(quoted) < 6 or quoted[-3] in ("", "-"):
        return None
    begins = _BEGINS.match(line)
    return Served(quoted[-3], _time(begins[1] if begins else ""), _address(quoted[-1]))


def _flat(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            if isinstance(inner, dict):
                yield from _flat(inner)
            else:
                yield str(name), inner


def _address(text: str) -> str:
    return "" if text in ("-", "None") else text


def _time(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        try:
            return datetime.fromisoformat(str(value)).timestamp()
        except ValueError:
            return 0.0


def compare(reader: LogReader, lines: Iterable[str]) -> AgainstReport:
    """Compare the whole log with the lines of an access log."""
    report = AgainstReport(undecided=[], unserved=[])
    served: dict[str, Served] = {}
    for line in lines:
        report.lines += 1
        found = read_line(line)
        if found is None:
            report.unread += bool(line.strip())
        else:
            served[found.request_id] = found
    decided, answered = _decisions(reader)
    begins, ends = _begins(reader), reader.head().recorded_at
    for request_id, one in served.items():
        if not one.server or (one.at and one.at < begins):
            continue
        report.served += 1
        if (routed := decided.get(request_id)) is None:
            report.without_decision += 1
            report.after_end += one.at > ends
            if len(report.undecided) < LISTED:
                report.undecided.append(request_id)
        elif one.server not in routed.servers:
            report.elsewhere += 1
    times = [one.at for one in served.values() if one.at]
    first, last = (min(times) + MARGIN, max(times) - MARGIN) if times else (0.0, float("inf"))
    for request_id in answered:
        if not first <= decided[request_id].at <= last:
            continue
        report.decided += 1
        if request_id not in served:
            report.without_line += 1
            if len(report.unserved) < LISTED:
                report.unserved.append(request_id)
    return report


class _Chosen(msgspec.Struct):
    at: float
    servers: set[str]


def _begins(reader: LogReader) -> float:
    """The time from which on the log has every decision."""
    meta = reader.segments()[0].meta()
    return meta.created_at if meta.first == 1 else meta.previous_recorded_at + MARGIN


def _decisions(reader: LogReader) -> tuple[dict[str, _Chosen], set[str]]:
    """The routed requests by id, with the servers that decisions named, and the ids of those that were answered."""
    decided, answered = dict[str, _Chosen](), set[str]()
    by_number = dict[tuple[str, int, int], str]()
    first = reader.first()
    try:
        members = reader.projection_before(first - 1).cluster.endpoints
    except NotKeptError:
        members = {}
    addresses = {number: endpoint.authority for number, endpoint in members.items()}
    for entry in reader.entries(first, None, (Class.MEMBERSHIP, Class.TRAFFIC)):
        event = skim(entry.kind, entry.body)
        match event:
            case RoutedMark(origin, at, facts, endpoints):
                one = decided.setdefault(facts.request_id, _Chosen(at, set()))
                one.servers |= {addresses[number] for number in endpoints if number in addresses}
                by_number[origin.picker, origin.epoch, origin.n] = facts.request_id
            case FinishedMark(origin, n, "complete", status):
                request_id = by_number.pop((origin.picker, origin.epoch, n), None)
                if request_id is not None and 0 < status < 500:
                    answered.add(request_id)
            case _:
                _note_address(entry, addresses)
    return decided, answered


def _note_address(entry: Entry, addresses: dict[int, str]) -> None:
    if entry.kind == Class.MEMBERSHIP:
        event = entry.event
        if isinstance(event, EndpointJoined):
            addresses[event.endpoint] = authority_of(event.address, event.port)
