"""Requests of the OpenAI API."""

import msgspec

from pointsman.core.plugin import plugin


@plugin("openai-parser", version=1, kind="parser")
class OpenaiParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads model and prompt of chat completions, completions and their relatives (`core/parsers`)."""
