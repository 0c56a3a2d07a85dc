"""OpenAI's Responses API: one message of one text, and the events by which it grows.

Nothing is kept between requests, as with vLLM unless it is told to: a response that another one refers to is not found.
"""

import json

from pointsman.cluster.simulator.apis.answer import Answer, Serving, named_event
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


class Responded(Answer):
    """A request for a response, and the bytes of its reply."""

    request: JsonObject
    streamed: bool
    asked: int | None
    """Number of tokens asked for at most; None where the request does not say."""
    events: int = 0
    """Number of events given so far: each bears its number."""

    def reply(self) -> bytes:
        """The whole reply of a request that is not streamed."""
        return json.dumps(self._whole(ended=True)).encode()

    def opening(self) -> bytes:
        """The events before the first token."""
        item = {**self._item("in_progress"), "content": []}
        return b"".join(
            (
                self._event("response.created", {"response": self._whole(ended=False)}),
                self._event("response.in_progress", {"response": self._whole(ended=False)}),
                self._event("response.output_item.added", {"output_index": 0, "item": item}),
                self._event("response.content_part.added", {**self._place(), "part": _part("")}),
            )
        )

    def tokens(self, index: int, first: int, last: int) -> bytes:
        """The events of tokens `first` to `last` (exclusive)."""
        return b"".join(
            self._event("response.output_text.delta", {**self._place(), "delta": self.word(index, n), "logprobs": []})
            for n in range(first, last)
        )

    def closing(self) -> bytes:
        """The events after the last token."""
        text, item = self.text(0), self._item(self._status)
        end = "response.completed" if self._status == "completed" else "response.incomplete"
        return b"".join(
            (
                self._event("response.output_text.done", {**self._place(), "text": text, "logprobs": []}),
                self._event("response.content_part.done", {**self._place(), "part": _part(text)}),
                self._event("response.output_item.done", {"output_index": 0, "item": item}),
                self._event(end, {"response": self._whole(ended=True)}),
            )
        )

    @property
    def _status(self) -> str:
        return "completed" if self.sequences[0].reason == "stop" else "incomplete"

    @property
    def _item_id(self) -> str:
        return f"msg_{self.serving.number:032x}"

    def _event(self, kind: str, value: JsonObject) -> bytes:
        event = named_event(kind, {"sequence_number": self.events, **value})
        self.events += 1
        return event

    def _place(self) -> JsonObject:
        return {"item_id": self._item_id, "output_index": 0, "content_index": 0}

    def _item(self, status: str) -> JsonObject:
        content = [_part(self.text(0))]
        return {"id": self._item_id, "type": "message", "role": "assistant", "status": status, "content": content}

    def _whole(self, ended: bool) -> JsonObject:
        request = self.request
        cut = ended and self._status == "incomplete"
        return {
            "id": f"resp_{self.serving.number:032x}",
            "object": "response",
            "created_at": self.serving.created,
            "model": self.model,
            "status": self._status if ended else "in_progress",
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": request.get("instructions"),
            "metadata": request.get("metadata") or {},
            "max_output_tokens": self.asked,
            "output": [self._item(self._status)] if ended else [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": request.get("temperature", 1.0),
            "top_p": request.get("top_p", 1.0),
            "text": {"format": {"type": "text"}},
            "tool_choice": request.get("tool_choice") or "auto",
            "tools": request.get("tools") or [],
            "truncation": "disabled",
            "usage": self._usage() if ended else None,
        }

    def _usage(self) -> JsonObject:
        prompt, completion = self.prompt_tokens, self.completion_tokens
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": completion,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + completion,
        }


def parse_response(body: bytes, serving: Serving) -> Responded:
    """Parse a request."""
    request = parse_object(body)
    model = serving.model(request)
    earlier = request.get("previous_response_id")
    if earlier is not None:
        raise ApiError(404, "NotFoundError", f"Response with id '{earlier}' not found.", "previous_response_id")
    asked: int | None = None
    if request.get("max_output_tokens") is not None:
        asked = whole_number(request, "max_output_tokens", 0)
        if asked < 1:
            raise bad_request(f"max_output_tokens must be at least 1, got {asked}.", "max_output_tokens")
    streamed = truth(request, "stream")
    sequence = serving.continued(_input_text(request), model, request, asked, "input")
    return Responded(
        model=model, sequences=[sequence], serving=serving, request=request, streamed=streamed, asked=asked
    )


def _input_text(request: JsonObject) -> bytes:
    instructions = request.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise bad_request(f"Input should be a valid string, found instructions={instructions!r:.100}", "instructions")
    before = role_text("system", instructions) if instructions else b""
    match request.get("input"):
        case str(text):
            return before + role_text("user", text)
        case [_, *_] as items:
            return before + b"".join(_item_text(item) for item in items)
    raise bad_request("input: wanted a text, or a list with at least one item", "input")


def _item_text(item: object) -> bytes:
    """The text of one item: a message, or the call of a tool or its output, as their JSON."""
    if isinstance(item, dict) and item.get("type", "message") != "message":
        return json.dumps(item).encode()
    return message_text(item, "input")


def _part(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
