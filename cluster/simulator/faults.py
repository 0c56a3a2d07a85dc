"""Faults on demand, so that tests can see what others do about them.

A request header `x-sim-fault`, or `POST /sim/fault` with `{"fault": ..., "path": ..., "count": ...}` for the
next requests whose path starts with `path` (default `/v1/`; without a count, all until `DELETE /sim/fault`):

- `hang`: the request is taken and never answered,
- `reset`: the connection is reset in the middle of the reply (after the first token of a stream),
- `status=NNN`: an error reply with this status, as vLLM words its own,
- `garbage`: bytes that are not HTTP,
- `nonsense`: an HTTP reply that is neither JSON nor a metrics page,
- `slow=SECONDS`: the request is answered that much later.
"""

import msgspec

from pointsman.cluster.simulator.apis.request_body import ApiError, JsonObject

KINDS = ("hang", "reset", "status", "garbage", "nonsense", "slow")
SLOW_MAX = 600.0


class WantedFault(msgspec.Struct, frozen=True):
    """A fault that was ordered: its kind and number."""

    kind: str
    number: float = 0.0
    """Status of a `status` fault, or seconds of a `slow` one."""


def parse_fault(text: str) -> WantedFault:
    """The fault that a header's value asks for."""
    kind, _, value = text.partition("=")
    if kind not in KINDS:
        raise ApiError(400, "BadRequestError", f"fault {kind!r}, wanted one of {', '.join(KINDS)}", "fault")
    if kind not in ("status", "slow"):
        return WantedFault(kind)
    try:
        number = float(value)
    except ValueError:
        raise ApiError(400, "BadRequestError", f"{kind}={value!r}, wanted a number", "fault") from None
    lowest, highest = (400, 599) if kind == "status" else (0, SLOW_MAX)
    if not lowest <= number <= highest:
        raise ApiError(400, "BadRequestError", f"{kind}={value}, wanted {lowest} to {highest}", "fault")
    return WantedFault(kind, number)


class StandingFaults:
    """The faults of one server that were ordered by `POST /sim/fault`; the last for a path counts."""

    def __init__(self) -> None:
        self._by_path: dict[str, tuple[WantedFault, int | None]] = {}

    def order(self, request: JsonObject) -> None:
        """Take the order that a request's JSON gives."""
        text, path, count = request.get("fault"), request.get("path", "/v1/"), request.get("count")
        if not isinstance(text, str) or not isinstance(path, str):
            raise ApiError(400, "BadRequestError", "wanted an object with fault, and path as text", "fault")
        if count is not None and (type(count) is not int or count < 1):
            raise ApiError(400, "BadRequestError", f"count {count!r}, wanted a number from 1", "count")
        self._by_path[path] = (parse_fault(text), count)

    def clear(self) -> None:
        """End all faults."""
        self._by_path.clear()

    def next(self, path: str) -> WantedFault | None:
        """The fault for a request to `path`, or None; its count is reduced by one."""
        for prefix, (fault, count) in self._by_path.items():
            if path.startswith(prefix):
                if count is not None:
                    if count == 1:
                        del self._by_path[prefix]
                    else:
                        self._by_path[prefix] = (fault, count - 1)
                return fault
        return None
