"""OpenAI's completions and chat completions, as vLLM speaks them."""

import json

from pointsman.cluster.simulator.apis.answer import Answer, Serving
from pointsman.cluster.simulator.apis.request_body import (
    JsonObject,
    bad_request,
    message_text,
    parse_object,
    token_ids,
    truth,
    whole_number,
)
from pointsman.cluster.simulator.engine.sequence import Sequence

CHOICES_MAX = 64
"""Number of sequences of one request, which is prompts times `n`, at most."""

COMPLETION_TOKENS_DEFAULT = 16


class Generation(Answer):
    """A request for completions, of a chat or of prompts, and the bytes of its reply."""

    chat: bool
    streamed: bool
    include_usage: bool

    @property
    def id(self) -> str:
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{self.serving.number:032x}"

    def usage(self) -> JsonObject:
        """The usage object; cached tokens as vLLM gives them with prompt token details on."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def reply(self) -> bytes:
        """The whole reply of a request that is not streamed."""
        kind = "chat.completion" if self.chat else "text_completion"
        choices = [self._whole(index, s) for index, s in enumerate(self.sequences)]
        return json.dumps({**self._head(kind), "choices": choices, "usage": self.usage()}).encode()

    def opening(self) -> bytes:
        """The events before the first token: a chat's roles."""
        if not self.chat:
            return b""
        delta: JsonObject = {"role": "assistant", "content": ""}
        return b"".join(self._event(self._delta(index, delta, None)) for index in range(len(self.sequences)))

    def tokens(self, index: int, first: int, last: int) -> bytes:
        """The events of tokens `first` to `last` (exclusive) of one choice, its end among them."""
        sequence = self.sequences[index]
        return b"".join(
            self._event(self._token(index, n, sequence.reason if n + 1 == sequence.target else None))
            for n in range(first, last)
        )

    def closing(self) -> bytes:
        """The events after the last token."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        usage = self._event({**self._head(kind), "choices": [], "usage": self.usage()}) if self.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def _head(self, kind: str) -> JsonObject:
        return {"id": self.id, "object": kind, "created": self.serving.created, "model": self.model}

    def _event(self, value: JsonObject) -> bytes:
        return b"data: " + json.dumps(value).encode() + b"\n\n"

    def _delta(self, index: int, delta: JsonObject, reason: str | None) -> JsonObject:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _token(self, index: int, n: int, reason: str | None) -> JsonObject:
        word = self.word(index, n)
        if self.chat:
            return self._delta(index, {"content": word}, reason)
        choice = {"index": index, "text": word, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        return {**self._head("text_completion"), "choices": [choice]}

    def _whole(self, index: int, sequence: Sequence) -> JsonObject:
        end: JsonObject = {"index": index, "logprobs": None, "finish_reason": sequence.reason, "stop_reason": None}
        if self.chat:
            return {**end, "message": {"role": "assistant", "content": self.text(index), "tool_calls": []}}
        return {**end, "text": self.text(index), "prompt_logprobs": None}


def parse_generation(body: bytes, chat: bool, serving: Serving) -> Generation:
    """Parse a request."""
    request = parse_object(body)
    model = serving.model(request)
    prompts = [_chat_text(request)] if chat else _prompts(request)
    choices = whole_number(request, "n", 1)
    if not 1 <= len(prompts) * choices <= CHOICES_MAX:
        raise bad_request(f"{len(prompts)} prompts times n={choices}, wanted 1 to {CHOICES_MAX} choices", "n")
    streamed = truth(request, "stream")
    options = request.get("stream_options")
    if options is not None and not streamed:
        raise bad_request("Stream options can only be defined when `stream=True`.", "stream_options")
    sequences = [
        serving.continued(prompt, model, request, _tokens_asked(request, chat, serving.room(prompt)), "messages")
        for prompt in prompts
        for _ in range(choices)
    ]
    include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Generation(
        model=model,
        sequences=sequences,
        serving=serving,
        chat=chat,
        streamed=streamed,
        include_usage=include_usage,
    )


def _tokens_asked(request: JsonObject, chat: bool, room: int) -> int | None:
    name = "max_completion_tokens" if chat and request.get("max_completion_tokens") is not None else "max_tokens"
    if request.get(name) is None:
        return None if chat else min(COMPLETION_TOKENS_DEFAULT, max(room, 1))
    asked = whole_number(request, name, 0)
    if asked < 1:
        raise bad_request(f"{name} must be at least 1, got {asked}.", name)
    return asked


def _prompts(request: JsonObject) -> list[bytes]:
    match request.get("prompt"):
        case str(text):
            return [text.encode("utf-8", "replace")]
        case [int(), *_] as ids:
            return [token_ids(ids, "prompt")]
        case [str(), *_] as texts if all(isinstance(t, str) for t in texts):
            return [t.encode("utf-8", "replace") for t in texts if isinstance(t, str)]
        case [[*_], *_] as lists:
            return [token_ids(ids, "prompt") for ids in lists]
    raise bad_request("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")


def _chat_text(request: JsonObject) -> bytes:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages: Field required, a list with at least one message", "messages")
    return b"".join(message_text(m, "messages") for m in messages)
