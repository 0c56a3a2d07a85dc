"""One table of refusals: every reason has all columns, and no other place lists them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from pointsman.core.deciding.refusals import REFUSALS, RefusalReason, refusal
from pointsman.core.deciding.verdict import verify_decision
from pointsman.core.events import Origin, RequestFacts, RequestRefused, decode, encode
from pointsman.core.state.marks import skim
from pointsman.core.state.projection import ClusterState
from pointsman.grpc.envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingResponse
from pointsman.grpc.ext_proc.replies import immediate
from pointsman.web.metrics.counting import Metrics

ROOT = Path(__file__).parent.parent.parent
TABLE = ROOT / "core/deciding/refusals.py"
REASONS: tuple[RefusalReason, ...] = get_args(RefusalReason)

WITHOUT_HEADER = {"bad-request", "unsupported-encoding", "gateway"}
"""Refused for what was sent, not for load, policy or limits."""


def refused(reason: str) -> RequestRefused:
    return RequestRefused(Origin("p", 7, 1, 0), 1.0, RequestFacts("r", "ns/pool", "m"), reason, refusal(reason).status)


def test_the_table_has_a_row_for_every_reason_and_no_other() -> None:
    assert tuple(REFUSALS) == REASONS


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_has_all_columns(reason: RefusalReason) -> None:
    row = REFUSALS[reason]

    assert row.status in {400, 413, 415, 429, 500, 503}
    assert row.code.isalpha()
    assert row.error_code.isalpha()
    assert row.message
    assert bool(row.dropped_reason) is (reason not in WITHOUT_HEADER)
    assert not (row.scheduled and "{}" in row.message), "`schedule` tells no values"


def test_a_status_has_one_name() -> None:
    names = {(row.status, row.code) for row in REFUSALS.values()}

    assert len(names) == len({status for status, _ in names})


@pytest.mark.parametrize("reason", REASONS)
def test_reply_log_verdict_and_metrics_say_what_the_table_says(reason: RefusalReason) -> None:
    row = REFUSALS[reason]
    message = row.tell(*range(row.message.count("{}")))
    event, metrics = refused(reason), Metrics()

    reply = ProcessingResponse.FromString(immediate(reason, message)[5:]).immediate_response
    metrics.follow([skim(4, encode(event))], ClusterState())

    assert reply.status.code == row.status
    assert reply.body.decode() == f"inference error: {row.code} - {message}"
    told = [h.header.raw_value.decode() for h in reply.headers.set_headers]
    assert told == ([row.dropped_reason] if row.dropped_reason else [])
    assert [series.errors for series in metrics.series.values()] == [{row.error_code: 1}]
    assert (verify_decision(ClusterState(), event).kind == "not-scheduled") is not row.scheduled


def test_a_reason_of_a_newer_build_is_read_and_counted() -> None:
    event = decode(encode(refused("out-of-tokens")))
    assert isinstance(event, RequestRefused)

    assert event.reason == "out-of-tokens"
    assert refusal(event.reason).error_code == "ServiceUnavailable"
    assert verify_decision(ClusterState(), event).kind == "not-scheduled"


def test_no_other_place_lists_reasons() -> None:
    folders = ("core", "eventlog", "cluster", "grpc", "web", "cli")
    modules = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if path != TABLE]

    found = {str(path.relative_to(ROOT)): lists for path in modules if (lists := list(reason_lists(path.read_text())))}

    assert found == {}, "ask core/deciding/refusals.py"


@pytest.mark.parametrize(
    "text",
    [
        "CODES = {'saturated': 429, 'no-endpoints': 503}",
        "KNOWN = ('saturated', 'filtered')",
        "HEADERS = ['rejected-saturated', 'rejected-no-endpoints']",
        "Reason = Literal['saturated', 'filtered']",
        "'One of `saturated`, `filtered`, `no-endpoints`.'",
    ],
)
def test_a_second_list_would_be_found(text: str) -> None:
    assert list(reason_lists(text)) != []


def reason_lists(text: str) -> Iterator[str]:
    """What in a module holds two reasons, or two values of the header, or names three reasons in words."""
    told = {*REASONS, *(row.dropped_reason for row in REFUSALS.values() if row.dropped_reason)}
    for node in ast.walk(ast.parse(text)):
        inside: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            inside = [*node.keys, *node.values]
        elif isinstance(node, ast.Tuple | ast.List | ast.Set):
            inside = [*node.elts]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            words = told.intersection(re.findall(r"`([a-z-]+)`", node.value))
            if len(words) > 2:
                yield node.value
        if len(told & {one.value for one in inside if isinstance(one, ast.Constant)}) > 1:
            yield ast.unparse(node)
