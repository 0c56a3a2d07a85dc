"""Writes weights into an HTTPRoute of an API server, and reads them from there.

Rules.  Only weights of the one rule are sent, each beside a test of the backend that it belongs to, all of it under a test
of the resourceVersion that was read a moment before: what somebody else wrote meanwhile is never overwritten.
The server first says what would come of it (a dry run): a webhook that would change anything else, or a right that is
missing, ends the change before anything is written.
A route that another tool keeps is left to it (`ownership.py`).
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
import trio

from pointsman.cluster.kubernetes.access import AccessError, ApiServer, decoded
from pointsman.cluster.kubernetes.ownership import obstacle_of
from pointsman.cluster.kubernetes.resources import ROUTES
from pointsman.cluster.objects.manifest import metadata_of, object_version, read_object
from pointsman.core.events import RouteObserved, WeightsIntended
from pointsman.core.processes.settings import ClusterSettings
from pointsman.core.rollout.outcome import ChangeCode
from pointsman.core.rollout.weight_change import (
    ReadBack,
    ReadBackFailed,
    ReadBackResult,
    WriteDone,
    WriteResult,
    not_written,
)
from pointsman.core.rollout.weights import new_weights

FIELD_MANAGER = "pointsman"
ATTEMPTS = 4
"""Times that a write is tried against a route whose status is being written at the same time."""

T = TypeVar("T")


class ClusterActuator:
    """The HTTPRoutes of one API server."""

    def __init__(self, cluster: ClusterSettings) -> None:
        self._cluster = cluster
        self._api: ApiServer | None = None

    async def write(self, source: str, intent: WeightsIntended) -> WriteResult:
        """Give the backends that the change touches their weights."""

        def work() -> WriteResult:
            try:
                return self._fresh(lambda api: _write(api, intent))
            except AccessError as error:
                return not_written(f"the API server did not take it: {error}", "a route that it takes")

        return await trio.to_thread.run_sync(work)

    async def read_back(self, source: str, intent: WeightsIntended) -> ReadBackResult:
        """Read the rule of the change."""

        def work() -> ReadBackResult:
            try:
                return self._fresh(lambda api: _read_back(api, intent))
            except AccessError as error:
                return ReadBackFailed(f"the API server did not say it: {error}")

        return await trio.to_thread.run_sync(work)

    def _fresh(self, work: Callable[[ApiServer], T]) -> T:
        """Do it, once more with credentials read again where the server does not know those that it got."""
        api = self._api
        if api is None:
            api = self._api = ApiServer(self._cluster)
        try:
            return work(api)
        except AccessError as error:
            if error.code != 401:
                raise
        api.renew()
        return work(api)


def _path(route: str) -> str:
    namespace, _, name = route.partition("/")
    return f"{ROUTES.path(ROUTES.versions[0], namespace)}/{name}"


def _route(api: ApiServer, route: str) -> dict[str, object]:
    return decoded(api.get(_path(route)), dict[str, object])


def _write(api: ApiServer, intent: WeightsIntended) -> WriteResult:
    for _ in range(ATTEMPTS):
        try:
            before = _route(api, intent.route)
        except AccessError as error:
            if error.code == 404:
                return not_written("the route is gone", "a route that is there", ChangeCode.ROUTE_GONE)
            raise
        if object_version(before) != intent.version:
            found, wanted = "the route was changed since it was read", "the route that the change rests on"
            return not_written(found, wanted, ChangeCode.STALE)
        if obstacle := obstacle_of(metadata_of(before)):
            return not_written(obstacle, "a route whose weights are ours to change")
        try:
            wanted_spec, operations = weight_patch(before, intent)
        except LookupError as error:
            return not_written(str(error), "the rule that the change rests on", ChangeCode.STALE)
        try:
            dry = decoded(api.patch(_path(intent.route), _query(dry_run=True), operations), dict[str, object])
            if dry.get("spec") != wanted_spec:
                found = "something at the API server (an admission webhook) would change more than the weights"
                return not_written(found, "a patch that is taken as it is")
        except AccessError as error:
            if error.code not in (409, 422):
                raise
            continue  # somebody wrote in between: it may have been a status
        try:
            api.patch(_path(intent.route), _query(dry_run=False), operations)
        except AccessError as error:
            if error.code in (409, 422):
                continue
            if error.code != 0:
                raise
            # No answer came: it may have been written, and reading it back tells.
        return WriteDone()
    return not_written(f"the route changed {ATTEMPTS} times while it was to be written", "a moment of rest")


def _query(*, dry_run: bool) -> dict[str, str]:
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    return {**query, "dryRun": "All"} if dry_run else query


def weight_patch(route: Mapping[str, object], intent: WeightsIntended) -> tuple[object, list[dict[str, object]]]:
    """Return the spec as it should be, and the JSON patch that makes it so.

    `LookupError` where the rule does not have the backends that the change rests on.
    """
    spec = msgspec.json.decode(msgspec.json.encode(route.get("spec")))  # a copy: it is changed here
    operations: list[dict[str, object]] = [
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata_of(route).get("resourceVersion")}
    ]
    rules = spec.get("rules") if isinstance(spec, dict) else None
    if not isinstance(rules, list) or not 0 <= intent.rule < len(rules):
        raise LookupError(f"the route has no rule {intent.rule + 1}")
    refs = rules[intent.rule].get("backendRefs")
    if not isinstance(refs, list) or len(refs) != len(intent.before):
        raise LookupError("the rule has other backends")
    changed = new_weights(intent.before, intent.after)
    namespace = intent.route.partition("/")[0]
    for index, ref in enumerate(refs):
        pool = f"{ref.get('namespace') or namespace}/{ref.get('name')}"
        key = (ref.get("group") or "", ref.get("kind") or "Service", pool)
        before = intent.before[index]
        if key != (before.group, before.kind, before.pool):
            raise LookupError(f"backend {index + 1} of the rule is {pool}")
        weight = changed.get(key)
        if weight is None:
            continue
        path = f"/spec/rules/{intent.rule}/backendRefs/{index}"
        for field in ("group", "kind", "namespace", "name"):
            if field in ref:
                operations.append({"op": "test", "path": f"{path}/{field}", "value": ref[field]})
        operations.append({"op": "add", "path": f"{path}/weight", "value": weight})  # `add` replaces as well
        ref["weight"] = weight
    return spec, operations


def _read_back(api: ApiServer, intent: WeightsIntended) -> ReadBackResult:
    value = _route(api, intent.route)
    read = read_object(value)
    if read.found is None or not isinstance(route := read.found.value, RouteObserved):
        return ReadBackFailed(read.fault or "the API server has no such route")
    backends = route.rules[intent.rule].backends if intent.rule < len(route.rules) else ()
    return ReadBack(route.version, backends)
