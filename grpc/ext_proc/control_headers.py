"""The request headers that steer picking, and how a header map is read.

Names are compared in lower case.  Values are bytes: Envoy passes on what is not UTF-8, and we keep it readable.
"""

from collections.abc import Iterable, Iterator

from pointsman.core.deciding.request_facts import FAIRNESS_ID, MODEL_REWRITE, OBJECTIVE, REQUEST_ID, text
from pointsman.grpc.envoy.config.core.v3.base_pb2 import HeaderValue

DESTINATION = "x-gateway-destination-endpoint"
DESTINATION_SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
SCORES = "x-gateway-destination-endpoint-scores"
DROPPED_REASON = "x-llm-d-request-dropped-reason"
REMOVED = frozenset(
    (
        *OBJECTIVE,
        *FAIRNESS_ID,
        *MODEL_REWRITE,
        SUBSET,
        DESTINATION_SERVED,
        DROPPED_REASON,
        "x-llm-d-slo-ttft-ms",
        "x-slo-ttft-ms",
        "x-llm-d-slo-tpot-ms",
        "x-slo-tpot-ms",
        "x-llm-d-video-fps",
        "x-llm-d-video-duration-seconds",
        "x-llm-d-video-resolution",
    )
)
"""Headers that the model server must not see.  `DESTINATION` is not among them: it is overwritten."""

PATHS = (":path", "x-original-path", "x-forwarded-path")
"""Headers that the path is read from; the first that is present counts."""

WANTED = frozenset(
    (
        *(*PATHS, ":method", "upgrade", "content-encoding", "content-length"),
        *(REQUEST_ID, *OBJECTIVE, *FAIRNESS_ID, *MODEL_REWRITE),
    )
)
"""Headers that every decision reads; plugins add theirs."""

READ = WANTED | REMOVED


def fields_of(headers: Iterable[HeaderValue]) -> Iterator[tuple[str, bytes]]:
    """Names as they came, and values: the bytes where there are any."""
    for header in headers:
        yield header.key, header.raw_value or header.value.encode()


def read_headers(
    fields: Iterable[tuple[str, bytes]], more: frozenset[str] = frozenset()
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the wanted headers and the names of those to remove; of a repeated header the last value counts.

    `more` holds the names that plugins read, in lower case.
    """
    wanted: dict[str, str] = {}
    removed: tuple[str, ...] = ()
    read = READ | more if more else READ
    for name, value in fields:
        if name not in read:
            name = name.lower()
            if name not in read:
                continue
        if name in REMOVED and name not in removed:
            removed += (name,)
        wanted[name] = text(value)
    return wanted, removed


def asks_for_upgrade(headers: dict[str, str]) -> bool:
    """Whether the client wants to go on in another protocol, whose bytes it sends once that was granted.

    HTTP/1.1 says so by `upgrade`, HTTP/2 and 3 by CONNECT.  A client that offers `h2c`, which no gateway takes up, sends
    its body all the same, and so does one that tells the body's length.
    """
    if headers.get(":method") == "CONNECT":
        return True
    wanted = headers.get("upgrade", "")
    if not wanted or headers.get("content-length", "0") != "0":
        return False
    return any(name.strip().lower() not in ("", "h2c") for name in wanted.split(","))


def first_of(headers: dict[str, str], names: tuple[str, ...]) -> str | None:
    """The value under the first of `names` that is present."""
    for name in names:
        value = headers.get(name)
        if value is not None:
            return value
    return None
