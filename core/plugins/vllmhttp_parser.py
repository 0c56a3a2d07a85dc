"""Requests of vLLM's own generate API."""

import msgspec

from pointsman.core.plugin import plugin


@plugin("vllmhttp-parser", version=1, kind="parser")
class VllmhttpParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads token ids (`core/parsers`)."""
