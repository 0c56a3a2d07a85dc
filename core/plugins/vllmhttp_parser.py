"""Requests of vLLM's own generate API."""

import msgspec

from pointsman.core.plugin.shapes import parser


@parser("vllmhttp-parser", version=1)
class VllmhttpParser(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """Reads token ids (`core/parsers`)."""
