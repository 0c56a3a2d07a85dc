"""OpenAI's embeddings: the vector of a text is made of its words, so that texts with the same words are near."""

import base64
import json

import numpy as np
import numpy.typing as npt
import xxhash

from pointsman.cluster.simulator.apis.answer import Answer, Serving
from pointsman.cluster.simulator.apis.request_body import JsonObject, bad_request, parse_object, token_ids, whole_number

INPUTS_MAX = 2_048
"""Number of texts of one request at most: what OpenAI's API takes."""
DIMENSIONS = 1_024
"""Numbers of a vector where the request does not say: what many models for embeddings give."""
DIMENSIONS_MAX = 4_096


class Embeddings(Answer):
    """A request for embeddings, and the bytes of its reply."""

    texts: list[bytes]
    dimensions: int
    in_base64: bool

    def reply(self) -> bytes:
        """The whole reply; usage has the prompt's tokens alone, because none are made."""
        prompt = self.prompt_tokens
        value = {
            "id": f"embd-{self.serving.number:032x}",
            "object": "list",
            "created": self.serving.created,
            "model": self.model,
            "data": [
                {"index": index, "object": "embedding", "embedding": self._vector(text)}
                for index, text in enumerate(self.texts)
            ],
            "usage": {"prompt_tokens": prompt, "total_tokens": prompt, "completion_tokens": 0},
        }
        return json.dumps(value).encode()

    def _vector(self, text: bytes) -> str | list[float]:
        vector = _embedding(text, self.dimensions)
        return (
            base64.b64encode(vector.astype("<f4").tobytes()).decode() if self.in_base64 else [float(x) for x in vector]
        )


def parse_embeddings(body: bytes, serving: Serving) -> Embeddings:
    """Parse a request."""
    request = parse_object(body)
    model = serving.model(request)
    texts = _inputs(request)
    if len(texts) > INPUTS_MAX:
        raise bad_request(f"{len(texts)} inputs, wanted at most {INPUTS_MAX}", "input")
    dimensions = whole_number(request, "dimensions", DIMENSIONS)
    if not 1 <= dimensions <= DIMENSIONS_MAX:
        raise bad_request(f"dimensions={dimensions}, wanted 1 to {DIMENSIONS_MAX}", "dimensions")
    encoding = request.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise bad_request(f"encoding_format={encoding!r}, wanted float or base64", "encoding_format")
    sequences = []
    for text in texts:
        sequence = serving.prompt(text, model)
        if sequence.prompt_tokens >= serving.server.max_model_len:
            raise bad_request(
                f"This model's maximum context length is {serving.server.max_model_len} tokens. However, you "
                f"requested {sequence.prompt_tokens} tokens in the input for embedding generation. "
                "Please reduce the length of the input.",
                "input",
            )
        sequences.append(sequence)
    return Embeddings(
        model=model,
        sequences=sequences,
        serving=serving,
        texts=texts,
        dimensions=dimensions,
        in_base64=encoding == "base64",
    )


def _inputs(request: JsonObject) -> list[bytes]:
    match request.get("input"):
        case str(text) if text:
            return [text.encode("utf-8", "replace")]
        case [int(), *_] as ids:
            return [token_ids(ids, "input")]
        case [str(), *_] as texts if all(isinstance(t, str) and t for t in texts):
            return [t.encode("utf-8", "replace") for t in texts if isinstance(t, str)]
        case [[*_], *_] as lists:
            return [token_ids(ids, "input") for ids in lists]
    raise bad_request("input: wanted a text, a list of texts, or token ids, none of them empty", "input")


def _embedding(text: bytes, dimensions: int) -> npt.NDArray[np.float32]:
    """A vector of length 1: each word adds or takes one at the place that its hash names."""
    vector = np.zeros(dimensions, dtype=np.float32)
    for word in text.lower().split() or [text]:
        value = xxhash.xxh3_64_intdigest(word)
        vector[value % dimensions] += 1 if value >> 63 else -1
    norm = float(np.linalg.norm(vector))
    if norm == 0:  # words that cancel each other
        vector[0] = norm = 1.0
    return (vector / norm).astype(np.float32)
