"""Requests of any other API."""

import msgspec

from pointsman.core.plugin.shapes import parser


@parser("passthrough-parser", version=1)
class PassthroughParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads nothing, so that what no parser claims is routed all the same (`core/parsers`)."""
