"""The next turn of the Responses API goes to the server that keeps the one before."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from worlds.configured import HEAD, parsed
from worlds.pool_port import POOL, Talk, cluster_of
from worlds.strategies import ints, sampled
from worlds.wire import (
    destination,
    request_body,
    request_headers,
    response_body,
    response_headers,
    with_subset,
)

from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION
from pointsman.core.deciding.verdict import OK, explain_decision, verify_decision
from pointsman.core.events import (
    ConfigAccepted,
    EndpointLeft,
    Event,
    RequestFinished,
    RequestRouted,
    ScrapeFailed,
    ServerStarted,
)
from pointsman.core.parsers.usage import LINE_BYTES_MAX, UsageReader
from pointsman.core.prefix.kept_responses import KeptResponses
from pointsman.core.state.membership import Epoch
from pointsman.core.state.traffic import TrafficState
from pointsman.core.values.packing import pack

CONFIG = """\
plugins:
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: prefix-cache-scorer}
- {type: least-queue-filter}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: least-queue-filter}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
"""
RESPONSES = "/v1/responses"


class Turns:
    """A pool of four idle servers, and clients of the Responses API."""

    def __init__(self) -> None:
        config = ConfigAccepted(POOL, parsed(HEAD + CONFIG).encode(), "test")
        self.names = [f"10.0.0.{n}:8000" for n in range(1, 5)]
        self.talk = Talk(cluster_of(*(name.partition(":")[0] for name in self.names), more=(config,)))

    def ask(self, body: dict[str, Any] | None, *answer: bytes, path: str = RESPONSES, streamed: bool = False) -> int:
        """The number of the server that a request goes to, which then answers."""
        exchange = self.talk.open()
        messages = [request_headers(path=path, end=body is None)]
        if body is not None:
            messages.append(request_body(json.dumps(body).encode()))
        replies = self.talk.say(exchange, *messages)
        kind = b"text/event-stream" if streamed else b"application/json"
        self.talk.say(exchange, response_headers(("content-type", kind)))
        for at, chunk in enumerate(answer, 1):
            self.talk.say(exchange, response_body(chunk, end=at == len(answer)))
        event = self.talk.feed.of(RequestRouted)[-1]
        epoch = Epoch("picker-0", 7, 0, "", SCHEDULER_VERSION, PLUGIN_VERSIONS)
        assert verify_decision(self.talk.feed.cluster, event, epoch) == OK
        return self.names.index(destination(replies[0])) + 1

    def first(self, n: int) -> int:
        return self.ask({"model": "m", "input": f"{n} question" + 200 * "x"}, answer(n))

    def next(self, n: int) -> int:
        return self.ask({"model": "m", "input": "and then?", "previous_response_id": f"resp_{n}"}, answer(1000 + n))

    def tell(self, event: Event) -> None:
        cluster = self.talk.feed.cluster
        cluster.apply_event(cluster.position + 1, event)
        self.talk.feed.traffic.follow(cluster)


def answer(n: int) -> bytes:
    usage = {"input_tokens": 9, "output_tokens": 1}
    return json.dumps({"id": f"resp_{n}", "object": "response", "status": "completed", "usage": usage}).encode()


def events(n: int, filler: int = 0) -> list[bytes]:
    response = {"id": f"resp_{n}", "object": "response", "instructions": "i" * filler}
    told: list[dict[str, Any]] = [
        {"type": "response.created", "response": response, "sequence_number": 0},
        {"type": "response.output_text.delta", "delta": "yes", "item_id": "msg_1"},
        {"type": "response.completed", "response": {**response, "usage": {"input_tokens": 9, "output_tokens": 1}}},
    ]
    return [b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), json.dumps(e).encode()) for e in told]


def test_the_next_turn_goes_to_the_server_that_answered_the_one_before() -> None:
    turns = Turns()
    homes = [turns.first(n) for n in range(12)]

    assert len(set(homes)) > 1
    assert [turns.next(n) for n in range(12)] == homes
    assert [turns.next(1000 + n) for n in range(12)] == homes


@pytest.mark.parametrize("filler", [0, 2 * LINE_BYTES_MAX])
def test_an_answer_in_events_is_remembered(filler: int) -> None:
    turns = Turns()
    homes = [
        turns.ask({"model": "m", "input": f"{n}", "stream": True}, *events(n, filler), streamed=True) for n in range(12)
    ]

    assert [turns.next(n) for n in range(12)] == homes


@pytest.mark.parametrize("path", ["/v1/responses/resp_7", "/v1/responses/resp_7/input_items?limit=3"])
def test_a_request_for_a_response_goes_where_it_is_kept(path: str) -> None:
    turns = Turns()
    home = turns.first(7)

    assert {turns.ask(None, b"{}", path=path) for _ in range(12)} == {home}
    assert {turns.ask({}, b"{}", path="/v1/responses/resp_7/cancel") for _ in range(12)} == {home}


@pytest.mark.parametrize("named", ["conv_1", {"id": "conv_1"}])
def test_a_conversation_goes_on_where_it_was_made(named: object) -> None:
    turns = Turns()
    home = turns.ask({"metadata": {}}, b'{"id":"conv_1","object":"conversation"}', path="/v1/conversations")

    assert {turns.ask({"model": "m", "input": "go on", "conversation": named}, b"{}") for _ in range(12)} == {home}


@pytest.mark.parametrize("why", ["it left", "it cannot be read", "it started anew", "it is another's"])
def test_where_the_server_is_gone_the_pick_is_an_ordinary_one(why: str) -> None:
    turns = Turns()
    home = turns.first(1)
    if why == "it left":
        turns.tell(EndpointLeft(home, "gone"))
    elif why == "it cannot be read":
        turns.tell(sampled([1, 2, 3, 4], [0] * 4, [0] * 4, [0.0] * 4))
        turns.tell(ScrapeFailed(pack(ints(home)), pack(ints(10_000))))
    elif why == "it started anew":
        turns.tell(ServerStarted(home, 1e9))
        turns.tell(ServerStarted(home, 2e9))
    n = 99 if why == "it is another's" else 1

    found = {turns.next(n) for _ in range(40)}

    assert len(found) > 1
    assert (home in found) == (why in ("it started anew", "it is another's"))


def test_a_filter_by_load_does_not_take_a_conversation_from_its_server() -> None:
    turns = Turns()
    home = turns.first(1)
    turns.tell(sampled([1, 2, 3, 4], [50 * (n == home) for n in range(1, 5)], [0] * 4, [0.0] * 4))

    assert {turns.next(1) for _ in range(12)} == {home}
    assert home not in {turns.first(n) for n in range(2, 14)}


def test_a_hint_that_leaves_the_server_out_is_obeyed() -> None:
    turns = Turns()
    home = turns.first(1)
    body = {"model": "m", "input": "and then?", "previous_response_id": "resp_1"}
    other = turns.names[home % 4]
    headers = with_subset(request_headers(path=RESPONSES), [other])
    replies = turns.talk.say(turns.talk.open(), headers, request_body(json.dumps(body).encode()))

    assert destination(replies[0]) == other


def test_the_decision_and_its_explanation_say_why() -> None:
    turns = Turns()
    turns.first(1)
    home = turns.next(1)
    event, cluster = turns.talk.feed.of(RequestRouted)[-1], turns.talk.feed.cluster
    told = explain_decision(cluster, event)

    assert told is not None
    assert event.rejections == (("response: kept-elsewhere", 3),)
    assert told.why == "It keeps resp_1, which the request goes on from."
    left_out = [c.rejection.words for c in told.candidates if c.rejection is not None]
    assert (len(left_out), home) == (3, event.endpoints[0])
    assert set(left_out) == {"the response resp_1 is kept by another"}


def test_another_picker_learns_it_from_the_log() -> None:
    turns = Turns()
    home = turns.first(1)
    other, cluster = TrafficState(), turns.talk.feed.cluster
    other.follow(cluster)
    other.observe(turns.talk.feed.of(RequestRouted)[0], cluster)
    other.observe(turns.talk.feed.of(RequestFinished)[0], cluster)

    assert other.kept.slot("resp_1") == cluster.endpoints[home].slot


def test_what_does_not_keep_its_answers_is_not_read_for_an_id() -> None:
    turns = Turns()
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    turns.ask(chat, b'{"id":"chatcmpl-1","usage":{}}', path="/v1/chat/completions")

    assert [event.response_id for event in turns.talk.feed.of(RequestFinished)] == [""]
    assert len(turns.talk.feed.traffic.kept) == 0


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), max_size=60))
def test_the_newest_ids_are_known_unless_their_server_is_gone(steps: list[tuple[int, int, bool]]) -> None:
    kept, known = KeptResponses(4), dict[str, int]()
    for number, slot, gone in steps:
        if gone:
            kept.let_go(slot)
            known = {name: -1 if at == slot else at for name, at in known.items()}
        else:
            kept.keep(f"r{number}", slot)
            known.pop(f"r{number}", None)
            known[f"r{number}"] = slot
            known = dict(list(known.items())[-4:])
        assert len(kept) <= 4
        assert all(kept.slot(f"r{n}") == known.get(f"r{n}", -1) for n in range(10))


@given(st.integers(0, 3), st.booleans(), st.lists(st.integers(1, 400), max_size=8), st.booleans())
def test_an_id_is_read_from_answers_in_any_pieces(filler: int, streamed: bool, cuts: list[int], asked: bool) -> None:
    body = b"".join(events(5, filler * 30_000)) if streamed else answer(5)
    reader = UsageReader(streamed, asked)
    at = 0
    for cut in [*cuts, len(body)]:
        reader.feed(body[at : at + cut])
        at += cut
    reader.usage()

    assert reader.response_id == ("resp_5" if asked else "")
