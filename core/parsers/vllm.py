"""vLLM's own generate API, which takes token ids."""

from typing import Final

import msgspec

from pointsman.core.parsers.body import NOTHING, BadRequest, ParsedRequest, decode_body, text_of, token_bytes, value_of

PARSER: Final = "vllmhttp-parser"
PATHS: Final = ("inference/v1/generate",)


class _Generate(msgspec.Struct):
    model: msgspec.Raw = NOTHING
    stream: msgspec.Raw = NOTHING
    token_ids: msgspec.Raw = NOTHING
    cache_salt: msgspec.Raw = NOTHING


_decoder = msgspec.json.Decoder(_Generate)


def parse(api: str, body: bytes) -> ParsedRequest:
    """Read the body of a request to a path that ends in `api`."""
    found = decode_body(_decoder, body, "")
    ids = value_of(found.token_ids, list[int])
    if not ids:
        raise BadRequest("invalid generate request: must have non-empty token_ids field")
    prompt = token_bytes(ids) or bytes(found.token_ids)
    return ParsedRequest(
        PARSER, api, text_of(found.model), True, bytes(found.stream) == b"true", prompt, text_of(found.cache_salt)
    )
