"""The request facts: what a decision may depend on, taken from headers, a parsed body and the configuration.

Header names come in lower case; a value may hold anything that a client can send, and none makes this raise.
"""

from collections.abc import Iterable, Mapping
from typing import Final
from weakref import WeakKeyDictionary

import msgspec
import numpy as np

from pointsman.core.config.effective import BYTES_A_TOKEN, PrefixParameters
from pointsman.core.deciding.client_text import check_text, cut_text
from pointsman.core.events import RequestFacts
from pointsman.core.events.traffic import CONTINUES
from pointsman.core.parsers.body import BadRequest, ParsedRequest
from pointsman.core.prefix.prompt_blocks import prefix_hashes
from pointsman.core.state.membership import Endpoint
from pointsman.core.state.projection import ClusterState
from pointsman.core.values.packing import pack

REQUEST_ID: Final = "x-request-id"
OBJECTIVE: Final = ("x-llm-d-inference-objective", "x-gateway-inference-objective")
FAIRNESS_ID: Final = ("x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id")
MODEL_REWRITE: Final = ("x-llm-d-model-name-rewrite", "x-gateway-model-name-rewrite")
"""Two names of one header, as in the pairs above: where both are present the first counts, even when it is empty."""
_STEERING: Final = frozenset((*OBJECTIVE, *FAIRNESS_ID, *MODEL_REWRITE))
DEFAULT_FLOW: Final = "default-flow"
"""The fairness id of requests that name none."""


class HttpRequest(msgspec.Struct, frozen=True):
    """A request as the data plane hands it over."""

    request_id: str
    path: str
    headers: Mapping[str, str | bytes]
    body_bytes: int
    subset: tuple[object, ...] | str | None = None
    """The subset hint as it came: items of a list, or text; None without one."""


class RoutingRules(msgspec.Struct, frozen=True):
    """What the facts depend on in a pool's configuration."""

    prefix: PrefixParameters | None = None
    """Parameters of prefix hashing; None where no plugin reads prefixes."""
    headers: frozenset[str] = frozenset()
    """Names of the request headers that plugins read."""


def request_facts(
    request: HttpRequest, parsed: ParsedRequest, pool: str, cluster: ClusterState, rules: RoutingRules
) -> RequestFacts:
    """The request facts; `BadRequest` where the body has to name a model and no header does instead."""
    headers = request.headers
    objective = target = fairness_id = ""
    if not _STEERING.isdisjoint(headers):
        objective = _first(headers, OBJECTIVE) or ""
        target = _first(headers, MODEL_REWRITE) or ""
        fairness_id = _first(headers, FAIRNESS_ID) or ""
        check_text("objective", objective)
        check_text("target model name", target)
        check_text("fairness id", fairness_id)
    check_text("model name", parsed.model)
    if parsed.rewritable and not parsed.model and not target:
        raise BadRequest("model not found in request body")
    name = target or parsed.model
    prefix, block = b"", 0
    if rules.prefix is not None and parsed.prompt:
        block = block_bytes(rules.prefix, pool, cluster)
        limit = rules.prefix.bytes_max(block)
        prefix = prefix_hashes(name, parsed.prompt, block, bytes_max=limit, salt=parsed.salt)
    return RequestFacts(
        request_id=cut_text(request.request_id),
        pool=pool,
        model=parsed.model,
        target_model=target if target != parsed.model else "",
        path=cut_text(request.path),
        objective=objective,
        priority=cluster.priority(pool, objective),
        fairness_id=fairness_id or DEFAULT_FLOW,
        body_bytes=request.body_bytes,
        prompt_bytes=parsed.prompt_bytes or len(parsed.prompt),
        streamed=parsed.streamed,
        prefix=prefix,
        prefix_block_bytes=block if prefix else 0,
        subset=None if request.subset is None else subset_slots(request.subset, pool, cluster),
        headers=_read(headers, rules.headers, parsed) if rules.headers or parsed.continues else {},
    )


def _read(headers: Mapping[str, str | bytes], names: frozenset[str], parsed: ParsedRequest) -> dict[str, str]:
    found = {name: text(headers[name]) for name in sorted(names) if name in headers}
    for name, value in found.items():
        check_text(f"header {name}", value)
    if parsed.continues:
        found[CONTINUES] = text(parsed.continues)
    return found


def text(value: str | bytes) -> str:
    """A header's value for people and events, where bytes that are not UTF-8, or no character, are written as `\\xNN`."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


def _first(headers: Mapping[str, str | bytes], names: tuple[str, ...]) -> str | None:
    for name in names:
        value = headers.get(name)
        if value is not None:
            return text(value)
    return None


def block_bytes(prefix: PrefixParameters, pool: str, cluster: ClusterState) -> int:
    """Bytes of a prompt block: the configured ones, or those that the pool's servers were found to have."""
    if prefix.auto_tune and (tokens := cluster.prefix_blocks.tokens(pool)):
        return tokens * BYTES_A_TOKEN
    return prefix.block_bytes


def subset_slots(hint: Iterable[object] | str, pool: str, cluster: ClusterState) -> bytes:
    """The packed slots of the pool's endpoints that a hint names; an item that is not text names none.

    `ip:port` is that endpoint, a bare ip all ports of it; IPv6 with or without brackets.
    """
    items = hint.split(",") if isinstance(hint, str) else hint
    named = _named(pool, cluster)
    slots: set[int] = set()
    for item in items:
        if isinstance(item, str):
            slots.update(named.get(item.strip().lower(), ()))
    return pack(np.array(sorted(slots), dtype=np.int64))


_Names = dict[str, list[int]]
_names: WeakKeyDictionary[ClusterState, dict[str, tuple[int, _Names]]] = WeakKeyDictionary()


def _named(pool: str, cluster: ClusterState) -> _Names:
    """The slots by everything that a hint can call an endpoint."""
    pools = _names.setdefault(cluster, {})
    known = pools.get(pool)
    if known is None or known[0] != cluster.membership_version:
        names: _Names = {}
        for member in cluster.members(pool):
            for name in _names_of(member):
                names.setdefault(name.lower(), []).append(member.slot)
        known = pools[pool] = (cluster.membership_version, names)
    return known[1]


def _names_of(member: Endpoint) -> tuple[str, ...]:
    address, port = member.address, member.port
    if ":" not in address:
        return address, f"{address}:{port}"
    return address, f"[{address}]", f"[{address}]:{port}", f"{address}:{port}"
