"""vLLM's own generate API, which takes token ids."""

import struct
from typing import Final

import msgspec
import xxhash

from pointsman.core.parsers.body import NOTHING, BadRequest, ParsedRequest, decode_body, text_of, token_list, value_of

PARSER: Final = "vllmhttp-parser"
PATHS: Final = ("inference/v1/generate",)


class _Placeholder(msgspec.Struct):
    offset: int


class _Features(msgspec.Struct):
    """Images, videos and sounds, by kind: their hashes, and where in the token ids they stand."""

    mm_hashes: dict[str, list[str]]
    mm_placeholders: dict[str, list[_Placeholder]]


class _Generate(msgspec.Struct):
    model: msgspec.Raw = NOTHING
    stream: msgspec.Raw = NOTHING
    token_ids: msgspec.Raw = NOTHING
    cache_salt: msgspec.Raw = NOTHING
    features: msgspec.Raw = NOTHING


_decoder = msgspec.json.Decoder(_Generate)


def parse(api: str, body: bytes) -> ParsedRequest:
    """Read the body of a request to a path that ends in `api`."""
    found = decode_body(_decoder, body, "")
    tokens = token_list(found.token_ids)
    if tokens is None:
        if not value_of(found.token_ids, list[int]):
            raise BadRequest("invalid generate request: must have non-empty token_ids field")
        tokens = bytes(found.token_ids), 0  # an id that is no 32-bit number
    elif (features := value_of(found.features, _Features)) is not None:
        tokens = _with_features(tokens[0], features), tokens[1]
    streamed = bytes(found.stream) == b"true"
    return ParsedRequest(PARSER, api, text_of(found.model), True, streamed, *tokens, text_of(found.cache_salt))


def _with_features(tokens: bytes, features: _Features) -> bytes:
    """Token ids with the hash of what stands there in the place of each placeholder's first, which is always the same."""
    told = bytearray(tokens)
    for kind, hashes in features.mm_hashes.items():
        for name, place in zip(hashes, features.mm_placeholders.get(kind, ()), strict=False):
            if 0 <= place.offset < len(told) // 4:
                struct.pack_into("<I", told, 4 * place.offset, xxhash.xxh32_intdigest(name.encode()))
    return bytes(told)
