"""Requests of any other API."""

import msgspec

from pointsman.core.plugin import plugin


@plugin("passthrough-parser", version=1, kind="parser")
class PassthroughParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads nothing, so that what no parser claims is routed all the same (`core/parsers`)."""
