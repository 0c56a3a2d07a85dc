"""Requests of the Anthropic API."""

import msgspec

from pointsman.core.plugin.shapes import parser


@parser("anthropic-parser", version=1)
class AnthropicParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads messages and token counts (`core/parsers`)."""
