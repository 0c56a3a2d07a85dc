"""What the answers of all APIs have in common: a model, sequences whose tokens are made, words for the tokens."""

import json

import msgspec

from pointsman.cluster.simulator.apis.request_body import ApiError, JsonObject, bad_request, whole_number
from pointsman.cluster.simulator.engine.batching import ServerModel
from pointsman.cluster.simulator.engine.kv_blocks import block_hashes
from pointsman.cluster.simulator.engine.sequence import Sequence

BYTES_PER_TOKEN = 4
"""Bytes of a token in English text, on average; a token id in a prompt counts as much."""

WORDS = tuple(
    "the city wakes under fog and every kitchen smells of bread coffee and salt a critic walks in sits down and begins "
    "to write about sourdough crab tacos dumplings oysters wine and the patience of good cooks".split()
)


class Serving(msgspec.Struct, frozen=True):
    """What a server is to a request that it begins to answer."""

    server: ServerModel
    models: dict[str, bool]
    """Names of the models that are served, each with whether it is an adapter; the base model first."""
    number: int
    """Number of the request, so that ids and texts differ between requests."""
    created: int
    """Time of the request, in whole seconds since 1970."""

    def model(self, request: JsonObject) -> str:
        """The model that a request names; the base model where it names none."""
        model = request.get("model", next(iter(self.models)))
        if not isinstance(model, str) or model not in self.models:
            raise ApiError(404, "NotFoundError", f"The model `{model}` does not exist.", "model")
        return model

    def room(self, text: bytes) -> int:
        """Number of tokens by which a prompt can be continued."""
        return self.server.max_model_len - prompt_tokens(text)

    def prompt(self, text: bytes, model: str) -> Sequence:
        """The sequence of a prompt that is read and not continued: it is done with its first step."""
        return self._sequence(text, model, 1, "stop")

    def continued(self, text: bytes, model: str, request: JsonObject, asked: int | None, shown: str) -> Sequence:
        """The sequence of a prompt that is continued by `asked` tokens at most; None is as many as there is room for.

        `shown` names in an error what the prompt is made of.
        """
        count, room = prompt_tokens(text), self.room(text)
        if asked is None:
            asked = max(room, 0)
        if room < 1 or asked > room:
            raise bad_request(
                f"This model's maximum context length is {self.server.max_model_len} tokens. However, you requested "
                f"{count + asked} tokens ({count} in the {shown}, {asked} in the completion). "
                f"Please reduce the length of the {shown} or completion.",
                None,
            )
        natural = _natural_length(text)
        if request.get("ignore_eos") is True or natural >= asked:
            return self._sequence(text, model, asked, "length")
        least = whole_number(request, "min_tokens", 0)
        return self._sequence(text, model, min(asked, max(natural, least)), "stop")

    def _sequence(self, text: bytes, model: str, target: int, reason: str) -> Sequence:
        hashes = block_hashes(text, self.server.block_tokens * BYTES_PER_TOKEN, model)
        return Sequence(prompt_tokens(text), hashes, target, reason, model if self.models[model] else "")


class Answer(msgspec.Struct, kw_only=True):
    """A parsed request, and what its answer is made of."""

    model: str
    sequences: list[Sequence]
    serving: Serving

    @property
    def prompt_tokens(self) -> int:
        return sum(s.prompt_tokens for s in self.sequences)

    @property
    def completion_tokens(self) -> int:
        return sum(s.produced for s in self.sequences)

    @property
    def cached_tokens(self) -> int:
        return sum(s.cached for s in self.sequences)

    def word(self, index: int, n: int) -> str:
        """Token `n` of sequence `index`."""
        return " " + WORDS[(self.serving.number * 7 + index * 3 + n) % len(WORDS)]

    def text(self, index: int) -> str:
        """All tokens of a sequence so far."""
        return "".join(self.word(index, n) for n in range(self.sequences[index].produced))


def prompt_tokens(text: bytes) -> int:
    """Number of a prompt's tokens."""
    return max(1, -(-len(text) // BYTES_PER_TOKEN))


def named_event(kind: str, value: JsonObject) -> bytes:
    """A server-sent event that has a name, which its data repeats as `type`."""
    data = json.dumps({"type": kind, **value})
    return f"event: {kind}\ndata: {data}\n\n".encode()


def _natural_length(prompt: bytes) -> int:
    """Tokens after which the simulated model stops by itself: 40 to 295, depending on the prompt."""
    return 40 + sum(prompt[-64:]) % 256
