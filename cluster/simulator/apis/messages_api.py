"""Anthropic's Messages API: one block of text, the events by which it grows, counting of tokens, and errors."""

import json

from pointsman.cluster.simulator.apis.answer import Answer, Serving, named_event, prompt_tokens
from pointsman.cluster.simulator.apis.request_body import (
    ApiError,
    JsonObject,
    bad_request,
    message_text,
    parse_object,
    role_text,
    truth,
    whole_number,
)

_ERRORS = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


class AnthropicMessage(Answer):
    """A request for a message, and the bytes of its reply."""

    streamed: bool

    def reply(self) -> bytes:
        """The whole reply of a request that is not streamed."""
        return json.dumps({**self._whole(), "stop_reason": self._stop_reason}).encode()

    def opening(self) -> bytes:
        """The events before the first token."""
        block: JsonObject = {"index": 0, "content_block": {"type": "text", "text": ""}}
        return b"".join(
            (
                named_event("message_start", {"message": {**self._whole(), "content": []}}),
                named_event("content_block_start", block),
                named_event("ping", {}),
            )
        )

    def tokens(self, index: int, first: int, last: int) -> bytes:
        """The events of tokens `first` to `last` (exclusive)."""
        return b"".join(
            named_event(
                "content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": self.word(index, n)}}
            )
            for n in range(first, last)
        )

    def closing(self) -> bytes:
        """The events after the last token."""
        delta = {"stop_reason": self._stop_reason, "stop_sequence": None}
        return b"".join(
            (
                named_event("content_block_stop", {"index": 0}),
                named_event("message_delta", {"delta": delta, "usage": self._usage()}),
                named_event("message_stop", {}),
            )
        )

    @property
    def _stop_reason(self) -> str:
        return "end_turn" if self.sequences[0].reason == "stop" else "max_tokens"

    def _whole(self) -> JsonObject:
        return {
            "id": f"msg_{self.serving.number:032x}",
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [{"type": "text", "text": self.text(0)}],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self._usage(),
        }

    def _usage(self) -> JsonObject:
        """Tokens read from the cache are not among `input_tokens` in this API."""
        cached = self.cached_tokens
        return {
            "input_tokens": self.prompt_tokens - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self.completion_tokens,
        }


def parse_message(body: bytes, serving: Serving) -> AnthropicMessage:
    """Parse a request."""
    request = parse_object(body)
    model = serving.model(request)
    asked = whole_number(request, "max_tokens", 0)
    if request.get("max_tokens") is None:
        raise bad_request("max_tokens: Field required", "max_tokens")
    if asked < 1:
        raise bad_request(f"max_tokens: Input should be greater than or equal to 1, found {asked}", "max_tokens")
    streamed = truth(request, "stream")
    sequence = serving.continued(_text(request), model, request, asked, "messages")
    return AnthropicMessage(model=model, sequences=[sequence], serving=serving, streamed=streamed)


def counted_tokens(body: bytes, serving: Serving) -> bytes:
    """The answer about how many tokens a request would have; no engine is asked."""
    request = parse_object(body)
    serving.model(request)
    return json.dumps({"input_tokens": prompt_tokens(_text(request))}).encode()


def message_error(error: ApiError) -> bytes:
    """The reply's JSON, in Anthropic's form."""
    kind = _ERRORS.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return json.dumps({"type": "error", "error": {"type": kind, "message": str(error)}}).encode()


def _text(request: JsonObject) -> bytes:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages: at least one message is required", "messages")
    system = request.get("system")
    before = role_text("system", system) if system else b""
    return before + b"".join(message_text(m, "messages") for m in messages)
