"""A pool's decisions in a picker process: from a complete request to the event that tells what became of it."""

import time
import uuid
from typing import Protocol, TypeAlias

import msgspec

from pointsman.core.draws import Draws
from pointsman.core.events import Origin, PickerEvent, RequestFacts, RequestRefused, RequestRouted
from pointsman.core.parsers import DEFAULT_PARSERS, BadRequest, ParsedRequest, parse_request
from pointsman.core.profile import Profile, profile_in_force
from pointsman.core.projection import ClusterState
from pointsman.core.request import REQUEST_ID, HttpRequest, RoutingRules, request_facts
from pointsman.core.scheduler import schedule
from pointsman.core.traffic import PrefixRoom, TrafficState
from pointsman.grpc.actions import Decide, Refuse, Routed
from pointsman.grpc.control_headers import PATHS, first_of

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

    def flush(self) -> None:
        """Hand what was recorded so far to the feed's socket."""
        ...


class Routing(msgspec.Struct, frozen=True):
    """A decision for an endpoint."""

    event: RequestRouted
    routed: Routed


class Refusal(msgspec.Struct, frozen=True):
    """A decision for none."""

    event: RequestRefused


Picked: TypeAlias = Routing | Refusal


class Picking(Protocol):
    """Decides for one pool."""

    @property
    def headers(self) -> frozenset[str]:
        """Names of the request headers that its plugins read, in lower case."""
        ...

    def pick(self, wish: Decide | Refuse) -> Picked:
        """Decide at once; nothing is recorded yet."""
        ...


class _Rules:
    """What of the configuration in force shapes requests before they are scheduled."""

    def __init__(self, profile: Profile) -> None:
        config = profile.config
        self.profile = profile
        self.routing = RoutingRules(config.prefix())
        self.parsers = tuple(config.declared(name).type for name in config.parsers) or DEFAULT_PARSERS
        prefix = self.routing.prefix
        self.room = PrefixRoom(prefix.lru_capacity, prefix.auto_tune) if prefix is not None else PrefixRoom()


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

    def pick(self, wish: Decide | Refuse) -> Picked:
        """Decide at once; nothing is recorded yet."""
        now = time.time()
        request_id = wish.request.headers.get(REQUEST_ID, "")
        new_id = () if request_id else ((REQUEST_ID, request_id := str(uuid.uuid4())),)
        path = (first_of(wish.request.headers, PATHS) or "/v1/completions").partition("?")[0]
        request = HttpRequest(request_id, path, wish.request.headers, wish.request.body_bytes, wish.request.subset)
        if isinstance(wish, Refuse):
            return self._refused(request, now, wish.reason, wish.status, wish.message)
        cluster = self._feed.cluster
        if cluster is None or self.pool not in cluster.pools:
            return self._refused(request, now, "not-ready", 503, f"pool {self.pool} is not known yet")
        rules = self._in_force(cluster)
        try:
            parsed = _NO_BODY if wish.request.bodyless else parse_request(path, wish.request.body, rules.parsers)
            facts = request_facts(request, parsed, self.pool, cluster, rules.routing)
        except BadRequest as error:
            return self._refused(request, now, "bad-request", 400, str(error))
        rename = (facts.model, facts.target_model) if parsed.rewritable and facts.target_model else None
        return self._schedule(cluster, rules.profile, facts, now, Routed("", new_id, rename))

    def _in_force(self, cluster: ClusterState) -> _Rules:
        profile = profile_in_force(cluster, self.pool)
        if self._rules is None or self._rules.profile is not profile:
            self._rules = _Rules(profile)
            self._feed.traffic.rooms[self.pool] = self._rules.room
        return self._rules

    def _schedule(
        self, cluster: ClusterState, profile: Profile, facts: RequestFacts, now: float, unrouted: Routed
    ) -> Picked:
        origin = self._feed.origin()
        begun = time.perf_counter_ns()
        decision = schedule(cluster, self._feed.traffic, profile, facts, Draws(origin.picker, origin.epoch, origin.n))
        event = decision.to_event(origin, now, facts, (time.perf_counter_ns() - begun) // 1000)
        if isinstance(event, RequestRefused):
            return Refusal(event)
        scores = decision.endpoint_scores(cluster) if profile.config.flags.emit_endpoint_scores else []
        routed = Routed(",".join(decision.authorities(cluster)), unrouted.set_headers, unrouted.rename, tuple(scores))
        return Routing(event, routed)

    def _refused(self, request: HttpRequest, now: float, reason: str, status: int, message: str) -> Refusal:
        facts = RequestFacts(request.request_id, self.pool, path=request.path, body_bytes=request.body_bytes)
        return Refusal(RequestRefused(self._feed.origin(), now, facts, reason, status, message))
