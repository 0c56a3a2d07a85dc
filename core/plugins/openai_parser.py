"""Requests of the OpenAI API."""

import msgspec

from pointsman.core.plugin.shapes import parser


@parser("openai-parser", version=1)
class OpenaiParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads model and prompt of chat completions, completions and their relatives (`core/parsers`)."""
