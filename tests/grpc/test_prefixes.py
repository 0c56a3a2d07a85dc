"""A conversation goes on where it is cached, in every API, however long it is and wherever it differs from others."""

import json
from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
from worlds.configured import HEAD, parsed
from worlds.pool_port import POOL, Talk, cluster_of
from worlds.wire import destination, request_body, request_headers, with_subset

from pointsman.cluster.scraping.block_size import BlockSizes
from pointsman.core.deciding.scheduler import PLUGIN_VERSIONS, SCHEDULER_VERSION
from pointsman.core.deciding.verdict import OK, verify_decision
from pointsman.core.events import ConfigAccepted, EndpointLeft, Event, LabelsChanged, RequestRouted
from pointsman.core.parsers.metrics.engines import engine_for
from pointsman.core.parsers.metrics.server_metrics import extract
from pointsman.core.state.membership import Epoch

PREFIX_ALONE = "schedulingProfiles:\n- {name: default, plugins: [{pluginRef: prefix-cache-scorer, weight: 3}]}\n"
SCORER = "plugins:\n- {type: prefix-cache-scorer}\n"
CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
Document = dict[str, Any]


class Homes:
    """Idle servers of a pool whose only scorer is that of the prefix."""

    def __init__(self, servers: int, *events: Event, plugins: str = SCORER) -> None:
        config = ConfigAccepted(POOL, parsed(HEAD + plugins + PREFIX_ALONE).encode(), "test")
        self.names = [f"10.0.0.{n}:8000" for n in range(1, servers + 1)]
        self.talk = Talk(cluster_of(*(name.partition(":")[0] for name in self.names), more=(config,)))
        self.sizes = BlockSizes()
        for event in events:
            self.tell(event)

    def send(self, path: str, document: Document, at: int | None = None) -> int:
        """Where a request goes, or is sent by a hint that names only that server."""
        headers = request_headers(path=path)
        if at is not None:
            headers = with_subset(headers, [self.names[at]])
        body = request_body(json.dumps(document).encode())
        return self.names.index(destination(self.talk.say(self.talk.open(), headers, body)[0]))

    def tell(self, event: Event) -> None:
        """Fold one more entry, and what the scraper says at its next look."""
        cluster = self.talk.feed.cluster
        cluster.apply_event(cluster.position + 1, event)
        for one in self.sizes.due(cluster):
            cluster.apply_event(cluster.position + 1, one)
        self.talk.feed.traffic.follow(cluster)

    def at_home(
        self, path: str, before: Callable[[int], Document], after: Callable[[int], Document], users: int
    ) -> int:
        """How many of the users' next turns go to the server that was sent the turns before."""
        for user in range(users):
            self.send(path, before(user), user % len(self.names))
        count = sum(self.send(path, after(user)) == user % len(self.names) for user in range(users))
        epoch = Epoch("picker-0", 7, 0, "", SCHEDULER_VERSION, PLUGIN_VERSIONS)
        event = self.talk.feed.of(RequestRouted)[-1]
        assert verify_decision(self.talk.feed.cluster, event, epoch) == OK
        return count


def spoken(user: int, turns: int) -> list[Document]:
    return [
        {"role": role, "content": f"{user} {what} {turn} " + str(user) * 400}
        for turn in range(turns)
        for role, what in (("user", "question"), ("assistant", "answer"))
    ]


def test_131072_tokens_are_looked_at_where_a_configuration_asks_for_them() -> None:
    plugins = (
        "plugins:\n- type: prefix-cache-scorer\n- type: approx-prefix-cache-producer\n"
        "  parameters: {maxPrefixTokensToMatch: 131072, blockSizeTokens: 16, autoTune: false}\n"
    )

    def chat(user: int, turns: int) -> Document:
        system = {"role": "system", "content": "S" * 20_480}
        return {"model": "m", "messages": [system, *spoken(user, turns), {"role": "user", "content": "go on"}]}

    homes = Homes(2, plugins=plugins)

    assert homes.at_home(CHAT, lambda user: chat(user, 3), lambda user: chat(user, 4), 24) == 24


def test_a_coding_agents_tools_leave_room_for_its_conversation() -> None:
    tools = [{"name": f"t{n}", "description": "d" * 700, "input_schema": {"type": "object"}} for n in range(30)]

    def turns(user: int, count: int) -> Document:
        said = [
            {"role": role, "content": [{"type": "text", "text": f"user{user} " * 500}]}
            for _ in range(count)
            for role in ("user", "assistant")
        ]
        system = [{"type": "text", "text": f"project of user{user}-"}]
        messages = [*said, {"role": "user", "content": "go on"}]
        return {"model": "m", "max_tokens": 9, "tools": tools, "system": system, "messages": messages}

    homes = Homes(2, LabelsChanged(1, cache_block_tokens=16), LabelsChanged(2, cache_block_tokens=16))

    path = "/v1/messages?beta=true"
    assert homes.at_home(path, lambda user: turns(user, 3), lambda user: turns(user, 4), 24) == 24


HYBRID = (
    b'vllm:cache_config_info{block_size="4096",engine="0",mamba_block_size="4096",num_gpu_blocks="900",'
    b'prefix_match_unit="32"} 1.0\n'
)


def told(endpoint: int, page: bytes) -> LabelsChanged:
    """What the log holds of a page's cache."""
    reading = extract(page, engine_for({}), 0.0)
    assert reading.block_tokens is not None
    assert reading.blocks is not None
    return LabelsChanged(endpoint, cache_block_tokens=reading.block_tokens, cache_blocks=reading.blocks)


def test_prefixes_of_hybrid_models_are_matched_in_the_unit_that_they_are_shared_in() -> None:
    homes = Homes(2, told(1, HYBRID), told(2, HYBRID))

    prompt = {"model": "m", "prompt": "a prompt of twelve thousand bytes. " * 343}

    assert homes.at_home(COMPLETIONS, lambda _: prompt, lambda _: prompt, 1) == 1
    event = homes.talk.feed.of(RequestRouted)[-1]
    assert event.request.prefix_block_bytes == 4 * 32
    cluster = homes.talk.feed.cluster
    assert (cluster.cache_block_tokens[0], cluster.cache_blocks[0]) == (32, 900 * 4096 // 32)


@pytest.mark.parametrize("order", list(permutations((1, 2, 3, 4))))
def test_the_block_size_of_a_pool_stays_when_the_server_that_told_it_leaves(order: tuple[int, ...]) -> None:
    sizes = {1: 16, 2: 64, 3: 64, 4: 64}
    homes = Homes(4, *(LabelsChanged(number, cache_block_tokens=sizes[number]) for number in order))

    def asked(user: int) -> Document:
        return {"model": "m", "prompt": f"conversation {user} " * 300}

    def at_home() -> int:
        return sum(homes.send(COMPLETIONS, asked(user)) == 1 + user % 3 for user in range(12))

    for user in range(12):
        homes.send(COMPLETIONS, asked(user), 1 + user % 3)
    before = at_home()
    homes.tell(EndpointLeft(1))

    assert (before, at_home()) == (12, 12)


def chat_prompt(shared: str, own: str) -> Document:
    return {"messages": [{"role": "system", "content": shared}, {"role": "user", "content": own}]}


WAYS: dict[str, tuple[str, Callable[[str, str], Document]]] = {
    "chat": (CHAT, chat_prompt),
    "chat tools": (
        CHAT,
        lambda shared, own: {
            "tools": [{"type": "function", "function": {"name": "f", "description": shared}}],
            "messages": [{"role": "user", "content": own}],
        },
    ),
    "chat parts": (
        CHAT,
        lambda shared, own: {
            "messages": [{"role": "user", "content": [{"type": "text", "text": text} for text in (shared, own)]}]
        },
    ),
    "completions": (COMPLETIONS, lambda shared, own: {"prompt": shared + own}),
    "tokens": (COMPLETIONS, lambda shared, own: {"prompt": [ord(c) for c in (shared + own)[::4]]}),
    "vllm tokens": ("/inference/v1/generate", lambda shared, own: {"token_ids": [ord(c) for c in (shared + own)[::4]]}),
    "responses": (RESPONSES, lambda shared, own: {"instructions": shared, "input": own}),
    "response items": (
        RESPONSES,
        lambda shared, own: {"input": [{"role": "user", "content": text} for text in (shared, own)]},
    ),
    "conversations": (
        "/v1/conversations",
        lambda shared, own: {"items": [{"type": "message", "role": "user", "content": text} for text in (shared, own)]},
    ),
    "embeddings": ("/v1/embeddings", lambda shared, own: {"input": shared + own}),
    "anthropic": (
        MESSAGES,
        lambda shared, own: {"system": shared, "messages": [{"role": "user", "content": own}]},
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("block_tokens", [16, 64])
@pytest.mark.parametrize("shared", [0, 3_000, 20_000, 110_000, 520_000])
def test_prompts_that_differ_behind_a_long_beginning_go_where_they_are_cached(
    way: str, block_tokens: int, shared: int
) -> None:
    path, document = WAYS[way]
    homes = Homes(2, *(LabelsChanged(n, cache_block_tokens=block_tokens) for n in (1, 2)))

    def prompt(user: int, turns: int) -> Document:
        own = f"user {user} " * (250 + shared // 50) * turns  # behind it some blocks of that depth
        return {"model": "m"} | document("the same for all " * (shared // 17), own)

    assert homes.at_home(path, lambda user: prompt(user, 3), lambda user: prompt(user, 4), 6) == 6
