"""The OpenAI API as vLLM speaks it: requests in, replies and errors out; no I/O."""

import json

import msgspec

from pointsman.cluster.simulator.engine.batching import ServerModel
from pointsman.cluster.simulator.engine.kv_blocks import block_hashes
from pointsman.cluster.simulator.engine.sequence import Sequence

BYTES_PER_TOKEN = 4
"""Bytes of a token in English text, on average; a token id in a prompt counts as much."""

CHOICES_MAX = 64
"""Number of sequences of one request, which is prompts times `n`, at most."""

COMPLETION_TOKENS_DEFAULT = 16

WORDS = (
    "the",
    "city",
    "wakes",
    "under",
    "fog",
    "and",
    "every",
    "kitchen",
    "smells",
    "of",
    "bread",
    "coffee",
    "and",
    "salt",
    "a",
    "critic",
    "walks",
    "in",
    "sits",
    "down",
    "and",
    "begins",
    "to",
    "write",
    "about",
    "sourdough",
    "crab",
    "tacos",
    "dumplings",
    "oysters",
    "wine",
    "and",
    "the",
    "patience",
    "of",
    "good",
    "cooks",
)

JsonObject = dict[str, object]


class ApiError(Exception):
    """A request that gets an error reply."""

    def __init__(self, status: int, kind: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> bytes:
        """The reply's JSON."""
        fields = {"message": str(self), "type": self.kind, "param": self.param, "code": self.status}
        return json.dumps({"error": fields}).encode()


class Generation(msgspec.Struct):
    """A parsed request for tokens, and the bytes of its reply."""

    model: str
    chat: bool
    streamed: bool
    include_usage: bool
    sequences: list[Sequence]
    number: int
    """Number of the request, so that ids and texts differ between requests."""
    created: int

    @property
    def prompt_tokens(self) -> int:
        return sum(s.prompt_tokens for s in self.sequences)

    @property
    def completion_tokens(self) -> int:
        return sum(s.produced for s in self.sequences)

    @property
    def id(self) -> str:
        return f"{'chatcmpl' if self.chat else 'cmpl'}-{self.number:032x}"

    def usage(self) -> JsonObject:
        """The usage object; cached tokens as vLLM gives them with prompt token details on."""
        prompt, completion = self.prompt_tokens, self.completion_tokens
        cached = sum(s.cached for s in self.sequences)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": cached},
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
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _event(self, value: JsonObject) -> bytes:
        return b"data: " + json.dumps(value).encode() + b"\n\n"

    def _delta(self, index: int, delta: JsonObject, reason: str | None) -> JsonObject:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return {**self._head("chat.completion.chunk"), "choices": [choice]}

    def _token(self, index: int, n: int, reason: str | None) -> JsonObject:
        word = self._word(index, n)
        if self.chat:
            return self._delta(index, {"content": word}, reason)
        choice = {"index": index, "text": word, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        return {**self._head("text_completion"), "choices": [choice]}

    def _whole(self, index: int, sequence: Sequence) -> JsonObject:
        text = "".join(self._word(index, n) for n in range(sequence.produced))
        end: JsonObject = {"index": index, "logprobs": None, "finish_reason": sequence.reason, "stop_reason": None}
        if self.chat:
            return {**end, "message": {"role": "assistant", "content": text, "tool_calls": []}}
        return {**end, "text": text, "prompt_logprobs": None}

    def _word(self, index: int, n: int) -> str:
        return " " + WORDS[(self.number * 7 + index * 3 + n) % len(WORDS)]


def parse_generation(
    body: bytes, chat: bool, server: ServerModel, names: dict[str, bool], number_and_time: tuple[int, int]
) -> Generation:
    """Parse a request; `names` says of each model that is served whether it is an adapter."""
    request = parse_object(body)
    model = request.get("model", next(iter(names)))
    if not isinstance(model, str) or model not in names:
        raise ApiError(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
    prompts = [_chat_text(request)] if chat else _prompts(request)
    choices = _whole_number(request, "n", 1)
    if not 1 <= len(prompts) * choices <= CHOICES_MAX:
        raise _bad(f"{len(prompts)} prompts times n={choices}, wanted 1 to {CHOICES_MAX} choices", "n")
    streamed = request.get("stream") or False
    if not isinstance(streamed, bool):
        raise _bad(f"Input should be a valid boolean, found stream={streamed!r}", "stream")
    options = request.get("stream_options")
    if options is not None and not streamed:
        raise _bad("Stream options can only be defined when `stream=True`.", "stream_options")
    adapter = model if names[model] else ""
    sequences = [
        _sequence(request, prompt, chat, server, (model, adapter)) for prompt in prompts for _ in range(choices)
    ]
    include_usage = isinstance(options, dict) and bool(options.get("include_usage"))
    return Generation(model, chat, streamed, include_usage, sequences, *number_and_time)


def _sequence(request: JsonObject, prompt: bytes, chat: bool, server: ServerModel, names: tuple[str, str]) -> Sequence:
    count = max(1, -(-len(prompt) // BYTES_PER_TOKEN))
    room = server.max_model_len - count
    asked = _tokens_asked(request, chat, max(room, 0))
    if room < 1 or asked > room:
        raise _bad(
            f"This model's maximum context length is {server.max_model_len} tokens. However, you requested "
            f"{count + asked} tokens ({count} in the messages, {asked} in the completion). "
            "Please reduce the length of the messages or completion.",
            None,
        )
    hashes = block_hashes(prompt, server.block_tokens * BYTES_PER_TOKEN, names[0])
    natural = _natural_length(prompt)
    if request.get("ignore_eos") is True or natural >= asked:
        return Sequence(count, hashes, asked, "length", names[1])
    least = _whole_number(request, "min_tokens", 0)
    return Sequence(count, hashes, min(asked, max(natural, least)), "stop", names[1])


def _natural_length(prompt: bytes) -> int:
    """Tokens after which the simulated model stops by itself: 40 to 295, depending on the prompt."""
    return 40 + sum(prompt[-64:]) % 256


def _tokens_asked(request: JsonObject, chat: bool, room: int) -> int:
    name = "max_completion_tokens" if chat and request.get("max_completion_tokens") is not None else "max_tokens"
    if request.get(name) is None:
        return room if chat else min(COMPLETION_TOKENS_DEFAULT, max(room, 1))
    asked = _whole_number(request, name, 0)
    if asked < 1:
        raise _bad(f"{name} must be at least 1, got {asked}.", name)
    return asked


def _prompts(request: JsonObject) -> list[bytes]:
    match request.get("prompt"):
        case str(text):
            return [text.encode("utf-8", "replace")]
        case [int(), *_] as ids:
            return [_token_ids(ids)]
        case [str(), *_] as texts if all(isinstance(t, str) for t in texts):
            return [t.encode("utf-8", "replace") for t in texts if isinstance(t, str)]
        case [[*_], *_] as lists:
            return [_token_ids(ids) for ids in lists]
    raise _bad("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")


def _token_ids(ids: object) -> bytes:
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**32 for i in ids) or not ids:
        raise _bad("a prompt of token ids is a list of numbers from 0", "prompt")
    return b"".join(i.to_bytes(4, "little") for i in ids)


def _chat_text(request: JsonObject) -> bytes:
    messages = request.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _bad("messages: Field required, a list with at least one message", "messages")
    return b"".join(_message_text(m) for m in messages)


def _message_text(message: object) -> bytes:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise _bad("each message is an object with a role", "messages")
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(p["text"]) for p in content if isinstance(p, dict) and "text" in p)
    text = f"<|{message['role']}|>{content or ''}\n"
    return text.encode("utf-8", "replace")


def parse_object(body: bytes) -> JsonObject:
    """The JSON object that a request's body must be."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(
            400, "Bad Request", f"[{{'type': 'json_invalid', 'msg': 'JSON decode error: {error}'}}]"
        ) from None
    if not isinstance(request, dict):
        raise ApiError(400, "Bad Request", "Input should be a valid dictionary or object to extract fields from")
    return request


def _whole_number(request: JsonObject, name: str, default: int) -> int:
    value = request.get(name)
    if value is None:
        return default
    if type(value) is not int:
        raise _bad(f"Input should be a valid integer, found {name}={value!r}", name)
    return value


def _bad(message: str, param: str | None) -> ApiError:
    return ApiError(400, "BadRequestError", message, param)
