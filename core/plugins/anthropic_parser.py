"""Requests of Anthropic API."""

import msgspec

from pointsman.core.plugin import plugin


@plugin("anthropic-parser", version=1, kind="parser")
class AnthropicParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads messages and token counts (`core/parsers`)."""
