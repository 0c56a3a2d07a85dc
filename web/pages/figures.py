"""Charts, observed shares and traffic of pools, computed from the read model's roll-ups."""

import math
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence

import msgspec
import trio
from markupsafe import Markup
from quart import g, request

from pointsman.core.events import BackendRef, RouteObserved
from pointsman.core.rollout.conformity import ENOUGH, Conformity, conformity
from pointsman.eventlog.readmodel.opening import open_read_model
from pointsman.eventlog.readmodel.queries import PAGE_MAX, Filters
from pointsman.eventlog.readmodel.rows import MoveRow, Span
from pointsman.web.console import Console, short_name
from pointsman.web.drawing import svg, words
from pointsman.web.pages.reply import BadQuery

SPANS = {"5m": (300, 10), "hour": (3600, 60), "day": (86400, 900)}
"""Names of the spans a chart can show: (seconds, seconds to a point)."""
SPAN_NAMES = {"5m": "5 minutes", "hour": "hour", "day": "day"}
OBSERVED_OVER = ((300, "the last 5 minutes"), (3600, "the last hour"), (86400, "the last day"))
"""Seconds over which shares are observed, in words: the shortest in which enough requests came."""
GRACE = 3.0
"""Seconds after a change of weights whose requests are not counted: a gateway needs them to load the route."""


MARKS_MAX = 50
"""Marks of a chart, the latest."""


class ChartRow(msgspec.Struct, frozen=True):
    """A chart's values at one time, as text, and what happened then."""

    time: str
    values: tuple[str, ...]
    happened: str = ""


class Chart(msgspec.Struct, frozen=True):
    """A picture, and the same values for a table beside it."""

    title: str
    unit: str
    series: tuple[svg.ChartLine, ...]
    starts: tuple[float, ...]
    """Times at which the values' spans begin, in seconds since 1970."""
    rows: tuple[ChartRow, ...]
    picture: Markup
    marks: tuple[svg.ChartMark, ...] = ()

    def named(self) -> dict[str, object]:
        """The values by name, for the JSON twin."""
        return {
            "title": self.title,
            "unit": self.unit,
            "starts": [words.moment(start) for start in self.starts],
            "series": [self._line(line) for line in self.series],
            "marks": [
                {"start": words.moment(self.starts[mark.index]), "kind": mark.kind, "words": mark.words}
                for mark in self.marks
            ],
        }

    @staticmethod
    def _line(line: svg.ChartLine) -> dict[str, object]:
        spread = {"lowest": line.lowest, "highest": line.highest} if line.highest else {}
        return {"label": line.label, "values": line.values, **spread}


class Measure(msgspec.Struct, frozen=True):
    """A figure that a chart shows, and how it follows from a span's roll-up; None where the span has none."""

    title: str
    unit: str
    of: Callable[[Span, int], float | None]
    lowest: Callable[[Span], float | None] | None = None
    """Lowest of what `of` is the mean of; None where it is no mean over endpoints."""
    highest: Callable[[Span], float | None] | None = None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def _mean(total: float, count: float) -> float | None:
    return total / count if count else None


REQUESTS = Measure("Requests", "per second", lambda s, width: (s.routed + s.refused_count) / width)
REFUSED = Measure("Refused and failed", "per second", lambda s, width: (s.refused_count + s.errors) / width)
WAITING = Measure(
    "Waiting requests",
    "mean per endpoint, and lowest to highest",
    lambda s, width: _mean(s.waiting_sum, s.samples),
    lambda s: s.waiting_min,
    lambda s: s.waiting_max if s.samples else None,
)
KV_CACHE = Measure(
    "KV cache",
    "% used: mean, and lowest to highest endpoint",
    lambda s, width: _mean(100 * s.kv_cache_sum, s.samples),
    lambda s: _scaled(s.kv_cache_min, 100),
    lambda s: 100 * s.kv_cache_max if s.samples else None,
)
FIRST_TOKEN = Measure(
    "Time to first token", "mean, ms", lambda s, width: _mean(1e3 * s.first_token_sum, s.first_tokens)
)
IN_FLIGHT = Measure("Requests in flight", "highest", lambda s, width: float(s.in_flight_max))


class SpanLink(msgspec.Struct, frozen=True):
    """A span that a page's charts can show, as a link."""

    name: str
    href: str
    current: bool


def asked_span() -> str:
    """The span that the present request asks for; `BadQuery` where it is none of SPANS."""
    span = request.args.get("span", "5m")
    if span not in SPANS:
        raise BadQuery(f"span is {span[:40]!r}, wanted one of {', '.join(SPANS)}")
    return span


def span_links(page: str, span: str, more: str = "") -> list[SpanLink]:
    """Links to the page with each span; `more` is what else stands in the query, from its `&` on."""
    return [SpanLink(text, f"{page}?span={value}{more}#charts", value == span) for value, text in SPAN_NAMES.items()]


async def spans(console: Console, pools: Sequence[str], span: str, until: float) -> dict[str, list[Span]]:
    """The roll-ups of these pools over the named span before `until`."""
    seconds, width = SPANS[span]

    def read() -> dict[str, list[Span]]:
        with open_read_model(console.read_model) as model:
            return {pool: model.rollups(pool, until - seconds, until, width) for pool in pools}

    return await trio.to_thread.run_sync(read)


class Window(msgspec.Struct, frozen=True):
    """The time that charts show, and what happened in it."""

    span: str
    """One of SPANS."""
    until: float
    happened: tuple[tuple[float, str, str], ...] = ()
    """Time, kind of mark and words of each thing."""

    @property
    def starts(self) -> list[int]:
        """Times at which the points begin; the last is the one before that which is not over."""
        seconds, width = SPANS[self.span]
        last = int(self.until // width)
        return [index * width for index in range(last - seconds // width + 1, last)]

    def marks(self) -> tuple[svg.ChartMark, ...]:
        """What happened, by point; what happened before the first or in the present one is left out."""
        width, starts = SPANS[self.span][1], self.starts
        found = []
        for at, kind, told in self.happened:
            index = int(at // width) - starts[0] // width
            if 0 <= index < len(starts):
                found.append(svg.ChartMark(index, kind, f"{words.clock(at, seconds=True)} {told}"))
        return tuple(found)


async def window(console: Console, span: str, until: float, pools: Sequence[str]) -> Window:
    """The time before `until`, with the incidents, and the moves of weights that concern these pools."""
    wanted = set(pools)

    def read() -> list[tuple[float, str, str]]:
        since = until - SPANS[span][0]
        with open_read_model(console.read_model) as model:
            happened = [(one.at, one.kind, one.words) for one in model.incidents(since, until, MARKS_MAX)]
            for move in model.moved(since, until, MARKS_MAX):
                named = {b.pool for rules in (move.before, move.backends) for rule in rules for b in rule}
                if move.before and named & wanted:
                    happened.append((move.recorded_at, "weights", _moved_words(move)))
        return sorted(happened)[-MARKS_MAX:]

    return Window(span, until, tuple(await trio.to_thread.run_sync(read)))


def _moved_words(move: MoveRow) -> str:
    """A move of weights, as `llm-route: 90/10 to 50/50`."""
    pairs = [
        f"{'/'.join(str(b.weight) for b in before)} to {'/'.join(str(b.weight) for b in after)}"
        for before, after in zip(move.before, move.backends, strict=False)
        if before != after
    ]
    return f"weights of {short_name(move.route)}: {', '.join(pairs) or 'other rules'}"


def chart(measure: Measure, lines: dict[str, list[Span]], colours: dict[str, int], window: Window) -> Chart:
    """One measure of one or more pools; points without a roll-up are gaps."""
    width, starts, marks = SPANS[window.span][1], window.starts, window.marks()
    series = []
    for label, found in lines.items():
        by_start = {s.start: s for s in found}
        there = [by_start.get(start) for start in starts]
        values = tuple(None if s is None else measure.of(s, width) for s in there)
        low, high = (
            () if of is None else tuple(None if s is None else of(s) for s in there)
            for of in (measure.lowest, measure.highest)
        )
        series.append(svg.ChartLine(label, colours[label], values, low, high))
    rows = tuple(
        ChartRow(
            words.clock(start, seconds=width < 60),
            tuple(_shown(line, i) for line in series),
            "; ".join(mark.words for mark in marks if mark.index == i),
        )
        for i, start in enumerate(starts)
    )
    labels = [words.clock(starts[0]), words.clock(starts[len(starts) // 2]), words.clock(starts[-1])]
    solo = len(series) == 1
    picture = svg.chart((measure.title, measure.unit), labels, series, marks, labelled=not solo)
    return Chart(measure.title, measure.unit, tuple(series), tuple(map(float, starts)), rows, picture, marks)


def _shown(line: svg.ChartLine, index: int) -> str:
    """A line's value at a point, with its spread where it has one."""
    value = line.values[index]
    if value is None:
        return "none"
    told = svg.number(value, 2)
    if not line.highest or line.highest[index] is None:
        return told
    return f"{told} ({svg.number(line.lowest[index] or 0.0, 2)} to {svg.number(line.highest[index] or 0.0, 2)})"


class Counted(msgspec.Struct, frozen=True):
    """Requests by pool over some time."""

    requests: dict[str, int]
    over: str


class RuleObserved(msgspec.Struct, frozen=True):
    """The traffic of a rule, and what it says of the weights."""

    counted: Counted
    conformity: Conformity
    shared: bool
    """Whether another rule sends requests to one of its pools too, so that what is counted is of both."""


async def rules_observed(console: Console) -> dict[tuple[str, int], RuleObserved]:
    """The rules of all routes by route and index; found once for a page."""
    known: dict[tuple[str, int], RuleObserved] | None = g.get("rules_observed")
    if known is None:
        state = console.state()
        routes = tuple(state.routes.values())
        uses = Counter(b.pool for route in routes for rule in route.rules for b in rule.backends)
        counted = await _since_moved(console, routes)
        known = g.rules_observed = {
            (route.route, index): _rule_observed(rule.backends, state.pools, uses, counted[route.route])
            for route in routes
            for index, rule in enumerate(route.rules)
        }
    return known


def _rule_observed(
    backends: Sequence[BackendRef], pools: Container[str], uses: Mapping[str, int], counted: Sequence[Counted]
) -> RuleObserved:
    """A rule over the shortest time in which there is evidence, or the longest."""
    shared = any(uses[b.pool] > 1 for b in backends)
    for one in counted:
        seen = [(b.weight, one.requests.get(b.pool, 0)) for b in backends if b.pool in pools]
        found = RuleObserved(one, conformity(seen, mixed=shared), shared)
        if found.conformity.requests >= ENOUGH:
            break
    return found


async def _since_moved(console: Console, routes: Sequence[RouteObserved]) -> dict[str, list[Counted]]:
    """The requests that each route's shares are observed over, only those since it got its present weights."""
    now = time.time()
    wanted = {route.route: tuple(rule.backends for rule in route.rules) for route in routes}

    def read() -> dict[str, list[Counted]]:
        found, whole = {}, dict[int, Counted]()
        with open_read_model(console.read_model) as model:
            for route, backends in wanted.items():
                move = next(iter(model.moves(route, 1)), None)
                if move is not None and move.backends != backends:
                    # The read model is a moment behind: the requests that it has were sent under other weights.
                    found[route] = [Counted({}, "the moment since the weights were set")]
                    continue
                age = math.inf if move is None else max(0.0, now - move.recorded_at)
                grace = GRACE if move is not None and move.before else 0.0
                found[route] = []
                for seconds, over in OBSERVED_OVER:
                    if seconds < age:
                        if seconds not in whole:
                            whole[seconds] = Counted(model.counts_since(now - seconds), over)
                        found[route].append(whole[seconds])
                if age <= OBSERVED_OVER[-1][0]:
                    over = f"the last {words.duration(age)}, since the weights were set"
                    found[route].append(Counted(model.counts_since(now - age + grace), over))
        return found

    return await trio.to_thread.run_sync(read)


class PoolTraffic(msgspec.Struct, frozen=True):
    """The traffic of a pool."""

    refused: int
    """Requests refused in the last 5 minutes; the next two count over the same time."""
    first_token: float | None
    spark: tuple[float | None, ...]
    rate: float
    """Requests a second over the last minute."""
    requests_minute: int
    refused_minute: int
    failed_minute: int


async def observed(console: Console, pools: Sequence[str]) -> dict[str, PoolTraffic]:
    """The recent traffic of these pools."""
    now = time.time()
    found = await spans(console, pools, "5m", now)
    seconds, width = SPANS["5m"]
    present = int(now // width) * width
    starts = [present - i * width for i in range(seconds // width - 1, 0, -1)]
    result = {}
    for pool, lines in found.items():
        by_start = {s.start: s for s in lines}
        minute = [s for s in lines if present - 60 <= s.start < present]
        requests = sum(s.routed + s.refused_count for s in minute)
        # A pool that has been there for less than a minute is measured over its own time.
        age = min(60, present - min((s.start for s in lines), default=present))
        result[pool] = PoolTraffic(
            sum(s.refused_count for s in lines),
            _mean(sum(s.first_token_sum for s in lines), sum(s.first_tokens for s in lines)),
            tuple(
                (by_start[start].routed + by_start[start].refused_count) / width if start in by_start else None
                for start in starts
            ),
            requests / age if age else 0.0,
            requests,
            sum(s.refused_count for s in minute),
            sum(s.errors for s in minute),
        )
    return result


class FirstTokens(msgspec.Struct, frozen=True):
    """Times to the first token among the latest decisions of a pool, in seconds; None where nothing was streamed."""

    decisions: int
    streamed: int
    """Answers among them that were streamed and have begun."""
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None

    @property
    def sentence(self) -> str:
        """The times in words."""
        among = f"among the last {words.plural(self.decisions, 'decision')}"
        if self.p50_seconds is None or self.p95_seconds is None or self.p99_seconds is None:
            return f"No answer {among} was streamed, so there is no time to a first token."
        told = zip(("p50", "p95", "p99"), (self.p50_seconds, self.p95_seconds, self.p99_seconds), strict=True)
        times = ", ".join(f"{name} {words.duration(seconds)}" for name, seconds in told)
        return f"Time to the first token of {words.plural(self.streamed, 'streamed answer')} {among}: {times}."


def first_tokens_of(times: Sequence[float | None]) -> FirstTokens:
    """What these decisions tell, each with its time or None; a percentile is the lowest time that so many do not pass."""
    begun = sorted(time for time in times if time is not None)
    shares = [begun[-(-len(begun) * percent // 100) - 1] if begun else None for percent in (50, 95, 99)]
    return FirstTokens(len(times), len(begun), *shares)


async def first_tokens(console: Console, pool: str | None = None) -> FirstTokens:
    """The times to the first token among the latest decisions of a pool, or of all."""

    def read() -> FirstTokens:
        with open_read_model(console.read_model) as model:
            rows = model.decisions(Filters(pool=pool), limit=PAGE_MAX).rows
        return first_tokens_of([row.first_token for row in rows])

    return await trio.to_thread.run_sync(read)
