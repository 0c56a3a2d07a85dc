"""What a request's body says: one module per API, chosen by the end of the path."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from pointsman.core.parsers import anthropic, openai, vllm
from pointsman.core.parsers.body import BadRequest, ParsedRequest
from pointsman.core.parsers.path import kept_in_path, model_in_path
from pointsman.core.parsers.rewrite import replace_model

__all__ = ["DEFAULT_PARSERS", "BadRequest", "ParsedRequest", "is_read", "parse_request", "replace_model"]

PASSTHROUGH: Final = "passthrough-parser"
DEFAULT_PARSERS: Final = (openai.PARSER, anthropic.PARSER, vllm.PARSER, PASSTHROUGH)
"""The types in force where a configuration names none."""

_Parse = Callable[[str, bytes], ParsedRequest]
_PARSERS: Final[dict[str, tuple[tuple[str, ...], _Parse]]] = {
    openai.PARSER: (openai.PATHS, openai.parse),
    anthropic.PARSER: (anthropic.PATHS, anthropic.parse),
    vllm.PARSER: (vllm.PATHS, vllm.parse),
}
_CLAIMS_MAX: Final = 1024
"""Paths whose claims are remembered: they come from clients."""
_PATH_MAX: Final = 256
"""Characters of such a path; the claim of a longer one is looked for each time."""
_claims: dict[tuple[str, tuple[str, ...]], tuple[str, _Parse] | None] = {}


def parse_request(path: str, body: bytes, parsers: Sequence[str] = DEFAULT_PARSERS) -> ParsedRequest:
    """Read a body with the parser whose claim is the longest end of the path; `BadRequest` says what is wrong."""
    claim = _claimed(path, tuple(parsers))
    if claim is not None:
        api, parse = claim
        found = parse(api, body)
        return found if found.model else _named_by_path(found, path)
    if PASSTHROUGH in parsers:
        return ParsedRequest(PASSTHROUGH, continues=kept_in_path(path))
    raise BadRequest(f"no parser registered matching path suffix for: {path.partition('?')[0]}")


def is_read(path: str, parsers: Sequence[str] = DEFAULT_PARSERS) -> bool:
    """Whether a body at this path has to be read, or goes on as it is."""
    return PASSTHROUGH not in parsers or _claimed(path, tuple(parsers)) is not None


def _claimed(path: str, parsers: tuple[str, ...]) -> tuple[str, _Parse] | None:
    """The claim, which is remembered."""
    key = (path, parsers)
    if key in _claims:
        return _claims[key]
    claim = _claim(*key)
    if len(_claims) >= _CLAIMS_MAX:
        _claims.clear()
    if len(path) <= _PATH_MAX:
        _claims[key] = claim
    return claim


def _named_by_path(found: ParsedRequest, path: str) -> ParsedRequest:
    model = model_in_path(path)
    return msgspec.structs.replace(found, model=model, rewritable=True) if model else found


def _claim(path: str, parsers: tuple[str, ...]) -> tuple[str, _Parse] | None:
    plain = path.partition("?")[0].removesuffix("/")
    found: tuple[str, _Parse] | None = None
    for parser in parsers:
        paths, parse = _PARSERS.get(parser, ((), openai.parse))
        for api in paths:
            # Ends of the text, not of path segments: `/foo-completions` is a completions path, as in the Go EPP.
            if plain.endswith(api) and (found is None or len(api) > len(found[0])):
                found = api, parse
    return found
