"""A pool's decisions in a picker process: from a complete request to the event that tells what became of it."""

import time
import uuid
from typing import Protocol, TypeAlias

import msgspec

from pointsman.core.deciding.client_text import cut_text
from pointsman.core.deciding.profile import Profile, profile_in_force
from pointsman.core.deciding.refusals import REFUSALS, RefusalReason
from pointsman.core.deciding.request_facts import REQUEST_ID, HttpRequest, RoutingRules, request_facts
from pointsman.core.deciding.scheduler import schedule
from pointsman.core.events import Origin, PickerEvent, RequestFacts, RequestRefused, RequestRouted
from pointsman.core.parsers import DEFAULT_PARSERS, BadRequest, ParsedRequest, is_read, parse_request
from pointsman.core.parsers.path import kept_in_path, model_in_path, model_in_query
from pointsman.core.plugin.timing import TIMED_EVERY, PluginTime
from pointsman.core.state.projection import ClusterState
from pointsman.core.state.traffic import TrafficState
from pointsman.core.values.draws import Draws
from pointsman.grpc.ext_proc.actions import Incoming, Routed
from pointsman.grpc.ext_proc.control_headers import PATHS, first_of

_NO_BODY = ParsedRequest("")
"""What there is to know of a request that has no body: nothing is wrong with it either."""


class Feed(Protocol):
    """What a picker process knows of the world, and where its events go; `PickerFeed` is the real one."""

    @property
    def cluster(self) -> ClusterState | None:
        """None before the feed has brought any."""
        ...

    @property
    def traffic(self) -> TrafficState:
        """This process's own."""
        ...

    def origin(self) -> Origin:
        """Who writes the next entry; it has to be recorded at once."""
        ...

    def record(self, event: PickerEvent) -> None:
        """Give out the `n` that `origin` told, and queue the event for the log."""
        ...

    def take_in_hand(self, request_id: str, path: str, body_bytes: int) -> None:
        """Tell the supervisor which request is begun to be read, in case that it never ends."""
        ...

    def put_down(self) -> None:
        """It was read."""
        ...

    def flush(self) -> None:
        """Hand what was recorded so far to the feed's socket."""
        ...


class Routing(msgspec.Struct, frozen=True):
    """A decision for an endpoint."""

    event: RequestRouted
    routed: Routed


class RefusedPick(msgspec.Struct, frozen=True):
    """A decision for none."""

    event: RequestRefused


Picked: TypeAlias = Routing | RefusedPick


class Picking(Protocol):
    """Decides for one pool."""

    @property
    def headers(self) -> frozenset[str]:
        """Names of the request headers that its plugins read, in lower case."""
        ...

    def pick(self, incoming: Incoming) -> Picked:
        """Decide at once; nothing is recorded yet."""
        ...

    def refuse(self, incoming: Incoming, reason: RefusalReason, message: str) -> RefusedPick:
        """The decision for none that the protocol wants; nothing is recorded yet."""
        ...


class _Rules:
    """What of the configuration in force shapes requests before they are scheduled."""

    def __init__(self, profile: Profile) -> None:
        config = profile.config
        self.profile = profile
        self.times: list[PluginTime] = []
        """Times of the plugins in the decision that was timed last."""
        self.timed = profile.timed(time.perf_counter_ns, self.times)
        self.routing = RoutingRules(config.prefix())
        self.parsers = tuple(config.declared(name).type for name in config.parsers) or DEFAULT_PARSERS


def _request(incoming: Incoming) -> HttpRequest:
    """What a parser and the facts need; a request without an id gets one."""
    headers = incoming.headers
    path = first_of(headers, PATHS) or "/v1/completions"
    if "?" in path:
        path = path.partition("?")[0]
    request_id = headers.get(REQUEST_ID) or str(uuid.uuid4())
    return HttpRequest(request_id, path, headers, incoming.body_bytes, incoming.subset)


def _unread(incoming: Incoming, path: str) -> ParsedRequest:
    """What there is to know of a request without a body: what its path is about, of an upgrade the model."""
    if not incoming.upgrade:
        kept = kept_in_path(path)
        return ParsedRequest("", continues=kept) if kept else _NO_BODY
    address = first_of(incoming.headers, PATHS) or ""
    return ParsedRequest("", model=model_in_query(address) or model_in_path(address))


class PoolPicking:
    """Decides for one pool, from memory and without waiting."""

    def __init__(self, pool: str, feed: Feed) -> None:
        self.pool = pool
        self._feed = feed
        self._rules: _Rules | None = None

    @property
    def headers(self) -> frozenset[str]:
        """Names of the request headers that plugins read."""
        return self._rules.routing.headers if self._rules is not None else frozenset()

    def pick(self, incoming: Incoming) -> Picked:
        """Decide at once; nothing is recorded yet."""
        now = time.time()
        request = _request(incoming)
        cluster = self._feed.cluster
        if cluster is None or self.pool not in cluster.pools:
            return self._refused(request, now, "not-ready", REFUSALS["not-ready"].tell(self.pool))
        rules = self._in_force(cluster)
        if incoming.unread is not None and is_read(request.path, rules.parsers):
            return self._refused(request, now, incoming.unread.reason, incoming.unread.message)
        try:
            parsed = (
                _unread(incoming, request.path)
                if incoming.bodyless
                else parse_request(request.path, incoming.body, rules.parsers)
            )
            facts = request_facts(request, parsed, self.pool, cluster, rules.routing)
        except BadRequest as error:
            return self._refused(request, now, "bad-request", REFUSALS["bad-request"].tell(error))
        origin, traffic = self._feed.origin(), self._feed.traffic
        traffic.now = now
        timed = origin.n % TIMED_EVERY == 1
        profile = rules.timed if timed else rules.profile
        begun = time.perf_counter_ns()
        decision = schedule(cluster, traffic, profile, facts, Draws(origin.picker, origin.epoch, origin.n))
        event = decision.to_event(origin, now, facts, (time.perf_counter_ns() - begun) // 1000)
        if isinstance(event, RequestRefused):
            rules.times.clear()
            return RefusedPick(event)
        if timed:
            event = msgspec.structs.replace(event, timed=tuple(rules.times))
            rules.times.clear()
        new_id = () if incoming.headers.get(REQUEST_ID) else ((REQUEST_ID, request.request_id),)
        rename = (facts.model, facts.target_model) if facts.target_model and parsed.rewritable else None
        scores = tuple(decision.endpoint_scores(cluster)) if rules.profile.config.flags.emit_endpoint_scores else ()
        return Routing(event, Routed(",".join(decision.authorities(cluster)), new_id, rename, scores, parsed.kept))

    def refuse(self, incoming: Incoming, reason: RefusalReason, message: str) -> RefusedPick:
        """The decision for none that the protocol wants; nothing is recorded yet."""
        return self._refused(_request(incoming), time.time(), reason, message)

    def _in_force(self, cluster: ClusterState) -> _Rules:
        profile = profile_in_force(cluster, self.pool)
        if self._rules is None or self._rules.profile is not profile:
            self._rules = _Rules(profile)
            self._feed.traffic.rooms[self.pool] = profile.room
        return self._rules

    def _refused(self, request: HttpRequest, now: float, reason: RefusalReason, message: str) -> RefusedPick:
        request_id, path = cut_text(request.request_id), cut_text(request.path)
        facts = RequestFacts(request_id, self.pool, path=path, body_bytes=request.body_bytes)
        status, told = REFUSALS[reason].status, cut_text(message)  # it may quote what the client sent
        return RefusedPick(RequestRefused(self._feed.origin(), now, facts, reason, status, told))
