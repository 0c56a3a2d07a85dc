"""vLLM's own generate API, which takes token ids."""

from typing import Final

import msgspec

from pointsman.core.parsers.body import NOTHING, BadRequest, ParsedRequest, decode_body, text_of, token_list, value_of

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
    tokens = token_list(found.token_ids)
    if tokens is None:
        if not value_of(found.token_ids, list[int]):
            raise BadRequest("invalid generate request: must have non-empty token_ids field")
        tokens = bytes(found.token_ids), 0  # an id that is no 32-bit number
    streamed = bytes(found.stream) == b"true"
    return ParsedRequest(PARSER, api, text_of(found.model), True, streamed, *tokens, text_of(found.cache_salt))
