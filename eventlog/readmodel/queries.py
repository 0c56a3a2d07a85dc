"""Questions to the read model, whichever store holds it, from any process and while it is written.

Rules.  A store that cannot answer (its file is not there yet, is being built, or its disk refuses) raises
`ReadModelUnavailableError`, and no error of its own.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Protocol, Self

import msgspec

from pointsman.eventlog.readmodel.rows import SPAN, ChangeRow, EndpointRow, IncidentRow, MoveRow, RequestRow, Span

PAGE_MAX = 500
"""Decisions to a page, whatever is asked for: what a browser shows without effort."""


class Filters(msgspec.Struct, frozen=True):
    """Which decisions; what is None does not matter."""

    pool: str | None = None
    model: str | None = None
    endpoint: str | None = None
    """Endpoint that was chosen: the name of its pod, or that with its port."""
    status: int | None = None
    reason: str | None = None
    """Reason of a refusal; `*` for any."""
    failed: bool = False
    """Whether only those are wanted that were routed and failed."""
    degraded: bool = False
    """Whether only those are wanted that were made without a feed."""
    since: float | None = None
    """Time from which on decisions were made."""
    until: float | None = None
    """Time before which they were made."""


class DecisionPage(msgspec.Struct, frozen=True):
    """Decisions, newest first, and the cursors of the pages beside it."""

    rows: list[RequestRow]
    older: int | None
    """Cursor to give as `before` for the next page; None at the end."""
    newer: int | None
    """Cursor to give as `after` for the page before; None where this page is the newest that was asked for."""


class Slowest(StrEnum):
    """What decisions are sorted by, the longest first."""

    DURATION = "duration"
    FIRST_TOKEN = "first_token"


SORTED_MAX = 200_000
"""Positions of the log in which the slowest are looked for: some ten thousand decisions, sorted in tens of ms."""


class ReadModelState(msgspec.Struct, frozen=True):
    """How far the read model has got."""

    log_id: str
    position: int


class ReadModel(Protocol):
    """The read model, asked."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def state(self) -> ReadModelState:
        """How far the read model has got."""

    def find_request(self, request_id: str) -> list[int]:
        """Positions of the decisions about a request id, newest first."""

    def requests(self, request_id: str) -> list[RequestRow]:
        """The decisions about a request id, newest first: clients choose ids, so there may be several."""

    def requests_beginning(self, beginning: str) -> list[RequestRow]:
        """The decisions about request ids that begin so, newest first."""

    def slowest(self, filters: Filters, by: Slowest, limit: int) -> tuple[list[RequestRow], int]:
        """The slowest that were found in the newest SORTED_MAX positions that may match, and the first of these."""

    def decision(self, position: int) -> RequestRow | None:
        """The decision at a position."""

    def decisions(
        self, filters: Filters, *, before: int | None = None, after: int | None = None, limit: int = 50
    ) -> DecisionPage:
        """A page of the newest decisions before a cursor, or of the oldest after one."""

    def rollups(self, pool: str, since: float, until: float, width: int = SPAN) -> list[Span]:
        """What a pool did from `since` to `until`, ascending, `width` seconds (a multiple of SPAN) to a row.

        Spans in which nothing happened are left out.
        """

    def changes(self, route: str, limit: int) -> list[ChangeRow]:
        """The latest changes of a route's weights, newest first."""

    def moves(self, route: str, limit: int) -> list[MoveRow]:
        """The latest times at which a route's weights became others, newest first."""

    def moved(self, since: float, until: float, limit: int) -> list[MoveRow]:
        """The latest times, of a time, at which the weights of any route became others, newest first."""

    def incidents(self, since: float, until: float, limit: int) -> list[IncidentRow]:
        """The latest incidents of a time, newest first."""

    def counts_since(self, at: float) -> dict[str, int]:
        """Decisions by pool that were made at `at` or later."""

    def refusals(self, since: float, until: float) -> dict[str, int]:
        """Refusals by reason in the spans from `since` to before `until`."""

    def endpoint_names(self, numbers: Iterable[int]) -> dict[int, EndpointRow]:
        """The endpoints of these numbers, as far as they are known; of at most PAGE_MAX."""

    def endpoints(self, pool: str | None = None) -> list[EndpointRow]:
        """Endpoints that ever joined, by number."""
