"""Why a request gets no endpoint, and what each reason is called wherever it is told.

This is the one table of refusals: the HTTP reply, the log, the console and `/metrics` ask it.
A new reason is a line in `RefusalReason` and a row in `REFUSALS`; reasons are written to disk, so none is renamed.
Statuses, codes and texts are llm-d-router's where it has them.
"""

from typing import Literal

import msgspec

RefusalReason = Literal[
    "no-endpoints",
    "saturated",
    "filtered",
    "not-ready",
    "bad-request",
    "body-too-large",
    "unsupported-encoding",
    "too-many-streams",
    "buffers-full",
    "gateway",
]


class Refusal(msgspec.Struct, frozen=True):
    """What a reason means to the client, to the gateway and to those who count."""

    status: int
    """HTTP status of the reply."""
    code: str
    """Name of the status in the reply's text."""
    message: str
    """Text for the client, with a `{}` for each value that the refusal rests on."""
    dropped_reason: str
    """Value of the header that tells a client what it was refused for; empty where the reply has no such header."""
    error_code: str
    """Label `error_code` that `/metrics` counts it under, in the words of GIE."""
    scheduled: bool = False
    """Whether `schedule` decides it, so that it can be computed again; the others are refused before."""
    brief: str = ""
    """Reason in about three words, for lists; empty where its name says as much."""

    def tell(self, *found: object) -> str:
        """The text for the client, with the values that were found."""
        return self.message.format(*found)


REFUSALS: dict[RefusalReason, Refusal] = {
    "no-endpoints": Refusal(
        503,
        "ServiceUnavailable",
        "failed to find endpoint candidates for serving the request",
        "rejected-no-endpoints",
        "ServiceUnavailable",
        scheduled=True,
        brief="no ready endpoint",
    ),
    "saturated": Refusal(
        429,
        "ResourceExhausted",
        "system saturated, sheddable request dropped",
        "rejected-saturated",
        "InferencePoolResourceExhausted",
        scheduled=True,
        brief="pool was saturated",
    ),
    "filtered": Refusal(
        429,
        "ResourceExhausted",
        "no endpoints available for the given request",
        "rejected-saturated",
        "ServiceUnavailable",
        scheduled=True,
        brief="filters left nobody",
    ),
    # The feed has not brought the pool yet.
    "not-ready": Refusal(
        503, "ServiceUnavailable", "pool {} is not known yet", "rejected-no-endpoints", "ServiceUnavailable"
    ),
    "bad-request": Refusal(400, "BadRequest", "{}", "", "BadRequest"),
    "body-too-large": Refusal(
        413,
        "PayloadTooLarge",
        "request body of {}, wanted {} at most",
        "rejected-body-too-large",
        "BadRequest",
    ),
    "unsupported-encoding": Refusal(
        415, "UnsupportedMediaType", "request body with content-encoding {}, wanted {}", "", "BadRequest"
    ),
    "too-many-streams": Refusal(
        503,
        "ServiceUnavailable",
        "{} requests in flight, wanted {} at most",
        "rejected-too-many-streams",
        "ServiceUnavailable",
    ),
    # All request bodies in memory together.
    "buffers-full": Refusal(
        503,
        "ServiceUnavailable",
        "request bodies in flight exceed {} bytes",
        "rejected-buffers-full",
        "ServiceUnavailable",
    ),
    # It does not send bodies in the mode that it must.
    "gateway": Refusal(
        500, "Internal", "request_body_mode is {}, wanted FULL_DUPLEX_STREAMED", "", "ServiceUnavailable"
    ),
}

_BY_NAME: dict[str, Refusal] = dict(REFUSALS.items())
_UNKNOWN = Refusal(503, "ServiceUnavailable", "{}", "", "ServiceUnavailable")


def refusal(reason: str) -> Refusal:
    """The row of a reason as it stands in the log, where one may be of a build that has more of them."""
    return _BY_NAME.get(reason, _UNKNOWN)
