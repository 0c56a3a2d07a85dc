"""Simulated model servers for tests, and the smallest client that shows all of a reply."""

import json
import math
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import msgspec
import trio
from worlds.waiting import HUNG

from pointsman.cluster.simulator.engine.batching import ServerModel
from pointsman.cluster.simulator.server import SimulatorSpec
from pointsman.cluster.simulator.simulators import serve_simulators

LLAMA, FOOD = "meta-llama/Llama-3.1-8B-Instruct", "food-review-1"
QUICK = ServerModel(decode_step=0.002, decode_sequence=0.0, prefill_token=0.00001, lora_load=0.05)


class Reply(msgspec.Struct):
    status: int
    headers: dict[str, str]
    body: bytes
    first: float
    """Seconds until the first byte of the body."""

    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value

    def events(self) -> list[dict[str, object]]:
        lines = self.body.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


async def ask(
    server: str, path: str, body: object = None, method: str = "", headers: dict[str, str] | None = None
) -> Reply:
    """One request on a connection of its own."""
    host, _, port = server.rpartition(":")
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    http = h11.Connection(h11.CLIENT)
    sent = {"host": server, "content-length": str(len(data)), **(headers or {})}
    request = h11.Request(method=method or ("GET" if body is None else "POST"), target=path, headers=list(sent.items()))
    started, first, parts = time.monotonic(), math.nan, []
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(b"".join(http.send(e) or b"" for e in (request, h11.Data(data=data), h11.EndOfMessage())))
        response: h11.Response | None = None
        while True:
            match http.next_event():
                case h11.NEED_DATA:
                    http.receive_data(await stream.receive_some(65_536))
                case h11.Response() as response:
                    pass
                case h11.Data(data=part):
                    first = time.monotonic() - started if math.isnan(first) else first
                    parts.append(bytes(part))
                case h11.EndOfMessage():
                    break
    assert response is not None
    named = {name.decode(): value.decode() for name, value in response.headers}
    return Reply(response.status_code, named, b"".join(parts), first)


def simulated(
    test: Callable[[str], Awaitable[None]], model: ServerModel = QUICK, log: Path | None = None, within: float = HUNG
) -> None:
    """Run `test` against one server."""

    async def main() -> None:
        with trio.fail_after(within):
            async with trio.open_nursery() as nursery:
                spec = SimulatorSpec("127.0.0.1", 0, LLAMA, (FOOD, "second", "third"), model)
                [server] = await nursery.start(serve_simulators, [spec], log)
                await test(server)
                nursery.cancel_scope.cancel()

    trio.run(main)


async def metric(server: str, name: str) -> float:
    page = (await ask(server, "/metrics")).body.decode()
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE)
    assert found is not None, f"no vllm:{name} in the page"
    return float(found[1])


def completion(prompt: str = "Write as if you were a critic: San Francisco", **more: object) -> dict[str, object]:
    return {"model": FOOD, "prompt": prompt, "max_tokens": 10, "temperature": 0, **more}
