"""The packages `openai` and `anthropic` are served by a simulated model server, streamed and not, with their errors."""

from collections.abc import Callable

import anthropic
import httpx2
import openai
import pytest
import trio
from worlds.simulated import FOOD, LLAMA, QUICK, simulated

PROMPT = "Write as if you were a critic: San Francisco"
SAID = [{"role": "user", "content": PROMPT}]


def with_openai(test: Callable[[openai.OpenAI], None]) -> None:
    async def main(server: str) -> None:
        with openai.OpenAI(base_url=f"http://{server}/v1", api_key="none", max_retries=0) as client:
            await trio.to_thread.run_sync(test, client)

    simulated(main)


def with_anthropic(test: Callable[[anthropic.Anthropic], None]) -> None:
    async def main(server: str) -> None:
        with anthropic.Anthropic(base_url=f"http://{server}", api_key="none", max_retries=0) as client:
            await trio.to_thread.run_sync(test, client)

    simulated(main)


def test_openais_completions_and_chats_whole_and_streamed() -> None:
    def check(client: openai.OpenAI) -> None:
        text = client.completions.create(model=FOOD, prompt=PROMPT, max_tokens=5)
        assert len(text.choices[0].text.split()) == 5
        chat = client.chat.completions.create(model=LLAMA, messages=[{"role": "user", "content": PROMPT}], max_tokens=5)
        assert chat.choices[0].finish_reason == "length"
        assert chat.usage is not None
        assert (chat.usage.completion_tokens, chat.usage.total_tokens) == (5, chat.usage.prompt_tokens + 5)
        pieces = list(client.completions.create(model=FOOD, prompt=PROMPT, max_tokens=5, stream=True))
        assert len("".join(p.choices[0].text for p in pieces).split()) == 5
        assert len({p.id for p in pieces}) == 1
        chunks = list(
            client.chat.completions.create(
                model=LLAMA,
                messages=[{"role": "user", "content": PROMPT}],
                max_tokens=5,
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 5
        with client.chat.completions.stream(model=LLAMA, messages=[{"role": "user", "content": PROMPT}]) as stream:
            final = stream.get_final_completion()
        assert final.choices[0].finish_reason == "stop"
        assert len(str(final.choices[0].message.content).split()) >= 40

    with_openai(check)


def test_openais_responses_whole_and_streamed() -> None:
    def check(client: openai.OpenAI) -> None:
        whole = client.responses.create(model=LLAMA, input=PROMPT, instructions="Be brief.")
        assert whole.status == "completed"
        assert whole.usage is not None
        assert len(whole.output_text.split()) == whole.usage.output_tokens >= 40
        parts = [{"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}]
        cut = client.responses.create(model=LLAMA, input=parts, max_output_tokens=5)  # type: ignore[arg-type]
        assert cut.status == "incomplete"
        assert cut.incomplete_details is not None
        assert cut.incomplete_details.reason == "max_output_tokens"
        assert len(cut.output_text.split()) == 5
        kinds = []
        with client.responses.stream(model=LLAMA, input=PROMPT) as stream:
            for number, event in enumerate(stream):
                kinds.append(event.type)
                assert event.sequence_number == number
            final = stream.get_final_response()
        assert kinds[:4] == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
        ]
        assert kinds[-1] == "response.completed"
        assert final.usage is not None
        assert kinds.count("response.output_text.delta") == final.usage.output_tokens
        assert len(final.output_text.split()) == final.usage.output_tokens
        events = list(client.responses.create(model=LLAMA, input=PROMPT, max_output_tokens=5, stream=True))
        assert events[-1].type == "response.incomplete"
        with pytest.raises(openai.NotFoundError, match=r"resp_1.* not found"):
            client.responses.create(model=LLAMA, input=PROMPT, previous_response_id="resp_1")

    with_openai(check)


def test_openais_embeddings_in_both_encodings_are_near_for_texts_with_the_same_words() -> None:
    def check(client: openai.OpenAI) -> None:
        texts = ["the cat sat on the mat", "on the mat sat the cat", "prices of crude oil fell"]
        got = client.embeddings.create(model=LLAMA, input=texts)
        same, turned, other = [e.embedding for e in got.data]
        assert len(same) == 1_024
        assert sum(a * b for a, b in zip(same, turned, strict=True)) == pytest.approx(1)
        assert abs(sum(a * b for a, b in zip(same, other, strict=True))) < 0.5
        plain = client.embeddings.create(model=LLAMA, input=texts[0], encoding_format="float")
        assert plain.data[0].embedding == pytest.approx(same)
        assert plain.usage.prompt_tokens == plain.usage.total_tokens > 0
        assert len(client.embeddings.create(model=LLAMA, input=[1, 2, 3], dimensions=8).data[0].embedding) == 8
        with pytest.raises(openai.BadRequestError, match="input"):
            client.embeddings.create(model=LLAMA, input="")
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            client.embeddings.create(model=LLAMA, input="x" * 40_000)

    with_openai(check)


def test_models_are_listed_and_looked_up_by_both_packages() -> None:
    def by_openai(client: openai.OpenAI) -> None:
        assert [m.id for m in client.models.list()] == [LLAMA, FOOD, "second", "third"]
        assert client.models.retrieve(LLAMA).id == LLAMA
        with pytest.raises(openai.NotFoundError, match="`gpt-5` does not exist"):
            client.models.retrieve("gpt-5")

    def by_anthropic(client: anthropic.Anthropic) -> None:
        assert [m.id for m in client.models.list()] == [LLAMA, FOOD, "second", "third"]

    with_openai(by_openai)
    with_anthropic(by_anthropic)


def test_anthropics_messages_whole_and_streamed() -> None:
    def check(client: anthropic.Anthropic) -> None:
        cut = client.messages.create(model=LLAMA, max_tokens=5, messages=[{"role": "user", "content": PROMPT}])
        assert (cut.stop_reason, cut.usage.output_tokens) == ("max_tokens", 5)
        assert cut.content[0].type == "text"
        assert len(cut.content[0].text.split()) == 5
        with client.messages.stream(
            model=LLAMA,
            max_tokens=500,
            system=[{"type": "text", "text": "Be brief."}],
            messages=[{"role": "user", "content": [{"type": "text", "text": PROMPT}]}],
        ) as stream:
            pieces = list(stream.text_stream)
            final = stream.get_final_message()
        assert final.stop_reason == "end_turn"
        assert len(pieces) == final.usage.output_tokens >= 40
        kinds = [
            str(event.type)
            for event in client.messages.create(
                model=LLAMA, max_tokens=2, messages=[{"role": "user", "content": PROMPT}], stream=True
            )
        ]
        assert [k for k in kinds if k != "ping"] == [
            "message_start",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
        counted = client.messages.count_tokens(model=LLAMA, messages=[{"role": "user", "content": PROMPT}])
        assert counted.input_tokens == cut.usage.input_tokens

    with_anthropic(check)


def test_tokens_from_the_cache_are_told_as_each_api_tells_them() -> None:
    long = "all of the same words again and again " * 20

    def by_openai(client: openai.OpenAI) -> None:
        client.responses.create(model=LLAMA, input=long, max_output_tokens=1)
        again = client.responses.create(model=LLAMA, input=long, max_output_tokens=1)
        assert again.usage is not None
        cached = again.usage.input_tokens_details.cached_tokens
        assert 0 < cached == again.usage.input_tokens // QUICK.block_tokens * QUICK.block_tokens

    def by_anthropic(client: anthropic.Anthropic) -> None:
        asked = [
            client.messages.create(model=LLAMA, max_tokens=1, messages=[{"role": "user", "content": long}])
            for _ in range(2)
        ]
        first, again = [m.usage for m in asked]
        assert again.cache_read_input_tokens
        assert again.input_tokens + again.cache_read_input_tokens == first.input_tokens

    with_openai(by_openai)
    with_anthropic(by_anthropic)


@pytest.mark.parametrize(
    ("status", "of_openai", "of_anthropic"),
    [
        (401, openai.AuthenticationError, anthropic.AuthenticationError),
        (403, openai.PermissionDeniedError, anthropic.PermissionDeniedError),
        (404, openai.NotFoundError, anthropic.NotFoundError),
        (429, openai.RateLimitError, anthropic.RateLimitError),
        (500, openai.InternalServerError, anthropic.InternalServerError),
        (503, openai.InternalServerError, anthropic.InternalServerError),
        (529, openai.InternalServerError, anthropic.InternalServerError),
    ],
)
def test_errors_are_those_of_the_package_that_asks(
    status: int, of_openai: type[openai.APIStatusError], of_anthropic: type[anthropic.APIStatusError]
) -> None:
    told = {"x-sim-fault": f"status={status}"}

    def by_openai(client: openai.OpenAI) -> None:
        with pytest.raises(of_openai, match="told to fail") as failed:
            client.embeddings.create(model=LLAMA, input="a", extra_headers=told)
        assert failed.value.status_code == status
        assert failed.value.type == "InternalServerError"

    def by_anthropic(client: anthropic.Anthropic) -> None:
        with pytest.raises(of_anthropic, match="told to fail") as failed:
            client.messages.create(
                model=LLAMA, max_tokens=1, messages=[{"role": "user", "content": "a"}], extra_headers=told
            )
        assert failed.value.status_code == status
        assert isinstance(failed.value.body, dict)
        assert failed.value.body["type"] == "error"

    with_openai(by_openai)
    with_anthropic(by_anthropic)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/responses", {"model": LLAMA}),
        ("/v1/responses", {"model": LLAMA, "input": []}),
        ("/v1/responses", {"model": LLAMA, "input": [3]}),
        ("/v1/responses", {"model": LLAMA, "input": "a", "max_output_tokens": 0}),
        ("/v1/responses", {"model": LLAMA, "input": "a", "stream": "yes"}),
        ("/v1/responses", {"model": LLAMA, "input": "a", "instructions": 1}),
        ("/v1/messages", {"model": LLAMA, "messages": SAID}),
        ("/v1/messages", {"model": LLAMA, "messages": SAID, "max_tokens": 0}),
        ("/v1/messages", {"model": LLAMA, "messages": [], "max_tokens": 1}),
        ("/v1/messages", {"model": LLAMA, "messages": SAID, "max_tokens": 9_000}),
        ("/v1/messages/count_tokens", {"model": LLAMA, "messages": "hello"}),
        ("/v1/embeddings", {"model": LLAMA, "input": {}}),
        ("/v1/embeddings", {"model": LLAMA, "input": ["a", 1]}),
        ("/v1/embeddings", {"model": LLAMA, "input": "a", "dimensions": 0}),
        ("/v1/embeddings", {"model": LLAMA, "input": "a", "encoding_format": "hex"}),
    ],
)
def test_requests_that_cannot_be_understood_get_400_and_what_was_wanted(path: str, body: dict[str, object]) -> None:
    async def main(server: str) -> None:
        async with httpx2.AsyncClient(base_url=f"http://{server}") as client:
            got = await client.post(path, json=body)
            assert got.status_code == 400
            assert got.json()["error"]["message"]
            assert ("type" in got.json()) == path.startswith("/v1/messages")
            assert (await client.post(path, json={**body, "model": "gpt-5"})).status_code == 404

    simulated(main)


def test_a_client_reads_the_id_that_its_request_bore() -> None:
    def by_openai(client: openai.OpenAI) -> None:
        got = client.embeddings.create(model=LLAMA, input="a", extra_headers={"x-request-id": "mine"})
        assert got._request_id == "mine"

    def by_anthropic(client: anthropic.Anthropic) -> None:
        message = client.messages.create(
            model=LLAMA,
            max_tokens=1,
            messages=[{"role": "user", "content": "a"}],
            extra_headers={"x-request-id": "mine"},
        )
        assert message._request_id == "mine"

    with_openai(by_openai)
    with_anthropic(by_anthropic)
