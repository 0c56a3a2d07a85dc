"""One HTTP connection to a simulated server.

A reader task takes what arrives, so that a client that leaves is noticed while its tokens are made;
the other task answers one request after the other.
"""

import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Final, NoReturn, TypeAlias
from urllib.parse import unquote

import h11
import trio

from pointsman.cluster.simulator.apis.answer import Serving
from pointsman.cluster.simulator.apis.embeddings_api import Embeddings, parse_embeddings
from pointsman.cluster.simulator.apis.messages_api import (
    AnthropicMessage,
    counted_tokens,
    message_error,
    parse_message,
)
from pointsman.cluster.simulator.apis.openai_api import Generation, parse_generation
from pointsman.cluster.simulator.apis.request_body import ApiError, JsonObject, parse_object
from pointsman.cluster.simulator.apis.responses_api import Responded, parse_response
from pointsman.cluster.simulator.faults import WantedFault, parse_fault
from pointsman.cluster.simulator.server import SimulatedServer

BODY_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of one request's body; a prompt as long as the longest context is far smaller."""
UNREAD_BYTES_MAX = 1024 * 1024
"""Bytes that a client may send ahead of the request being answered; with more, it has to wait."""
KEEP_ALIVE = 5.0
"""Seconds an idle connection stays open: uvicorn's default, and so vLLM's."""
RECEIVE_BYTES = 64 * 1024
READ_BEFORE_RESET = 0.1
"""Seconds for the other side to read the begun reply: a reset throws away what it has not read."""

_JSON = "application/json"
_Streamed: TypeAlias = Generation | Responded | AnthropicMessage
_Answer: TypeAlias = _Streamed | Embeddings
_GENERATE: Final[dict[str, Callable[[bytes, Serving], _Answer]]] = {
    "/v1/completions": lambda body, serving: parse_generation(body, False, serving),
    "/v1/chat/completions": lambda body, serving: parse_generation(body, True, serving),
    "/v1/responses": parse_response,
    "/v1/messages": parse_message,
    "/v1/embeddings": parse_embeddings,
}
_MODEL: Final = "/v1/models/"
_MESSAGES: Final = "/v1/messages"
_COUNT_TOKENS: Final = "/v1/messages/count_tokens"
_GET = frozenset(("/health", "/ping", "/version", "/v1/models", "/metrics"))
_POST = frozenset((*_GENERATE, _COUNT_TOKENS, "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/sim/fault"))


class ClientLeft(Exception):
    """Raised where the client closed the connection, or broke the protocol so that no answer is possible."""


class SimulatedConnection:
    """The server's side of one connection."""

    def __init__(self, server: SimulatedServer, stream: trio.SocketStream) -> None:
        self._server = server
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=64 * 1024)
        self._changed = trio.Event()
        self._unread = 0
        self._room = trio.Event()
        self._left = False
        self._bodyless = False
        self._identity: list[tuple[bytes, bytes]] = []

    def notify(self) -> None:
        """Wake the answering task, because something changed that it may wait for."""
        self._changed.set()

    async def run(self) -> None:
        """Answer until the client leaves, idles too long or wants to close."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            try:
                while await self._answer_next():
                    pass
            except (ClientLeft, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # no client is left to answer
            nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        while not self._left:
            try:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                data = b""
            self._left = not data
            self._unread += len(data)
            self._http.receive_data(data)
            self.notify()
            while self._unread > UNREAD_BYTES_MAX:
                self._room = trio.Event()
                await self._room.wait()

    async def _wait(self) -> None:
        """Return when `notify` was called since the last return."""
        await self._changed.wait()
        self._changed = trio.Event()

    async def _next_event(self) -> h11.Request | h11.Data | h11.EndOfMessage:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                await self._reply(error.error_status_hint, "text/plain", b"Invalid HTTP request received.")
                raise ClientLeft from error
            if isinstance(event, h11.Request | h11.Data | h11.EndOfMessage):
                return event
            if isinstance(event, h11.ConnectionClosed) or self._left:
                raise ClientLeft
            self._unread = 0  # all bytes belong to the request that is being received
            self._room.set()
            await self._wait()

    # --- one request ----------------------------------------------------------------------------

    async def _answer_next(self) -> bool:
        with trio.move_on_after(KEEP_ALIVE) as idle:
            request = await self._next_event()
        if idle.cancelled_caught:
            return False
        assert isinstance(request, h11.Request), "h11 begins a cycle with its request"
        self._bodyless = request.method == b"HEAD"
        exchange = SimulatedExchange(self._server.name, request)
        self._identity = exchange.identity()
        try:
            await self._answer(exchange)
        except ApiError as error:
            wording = message_error(error) if exchange.path.startswith(_MESSAGES) else error.body()
            await self._reply(error.status, _JSON, wording)
            exchange.status, exchange.ended = error.status, "complete"
        finally:
            if exchange.path.startswith("/v1/") and exchange.method == "POST":
                self._server.request_log.write(exchange.line())
        if self._http.our_state is h11.MUST_CLOSE or self._http.their_state is h11.MUST_CLOSE:
            return False
        # Where the request was not read to its end, its remaining bytes would be taken for the next request.
        if self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._http.start_next_cycle()
        return True

    async def _answer(self, exchange: "SimulatedExchange") -> None:
        body = await self._body()
        fault = parse_fault(exchange.fault) if exchange.fault else self._server.faults.next(exchange.path)
        if fault is not None:
            await self._misbehave(fault, exchange)
        if exchange.path in _GENERATE and exchange.method == "POST":
            await self._generate(exchange, body, fault)
            return
        status, kind, reply = self._plain(exchange, body)
        await self._reply(status, kind, reply)
        exchange.status, exchange.ended = status, "complete"

    async def _body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        if self._http.they_are_waiting_for_100_continue:
            await self._stream.send_all(self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        while isinstance(event := await self._next_event(), h11.Data):
            parts.append(bytes(event.data))
            size += len(event.data)
            if size > BODY_BYTES_MAX:
                raise ApiError(413, "BadRequestError", f"the body has over {BODY_BYTES_MAX} bytes")
        return b"".join(parts)

    def _plain(self, exchange: "SimulatedExchange", body: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of what is answered at once."""
        server = self._server
        known = exchange.path in _POST
        if exchange.method in ("GET", "HEAD"):
            known = exchange.path in _GET or exchange.path.startswith(_MODEL)
        if exchange.method == "DELETE" and exchange.path == "/sim/fault":
            server.faults.clear()
            return 200, _JSON, b"{}"
        if not known:
            wrong = exchange.path in _GET or exchange.path in _POST
            return (
                (405, _JSON, b'{"detail":"Method Not Allowed"}') if wrong else (404, _JSON, b'{"detail":"Not Found"}')
            )
        if exchange.path.startswith(_MODEL):
            return 200, _JSON, json.dumps(self._model(unquote(exchange.path.removeprefix(_MODEL)))).encode()
        match exchange.path:
            case "/metrics":
                return 200, "text/plain; version=0.0.4; charset=utf-8", server.page.render(time.time())
            case "/v1/models":
                models = [self._model(name) for name in server.models]
                return 200, _JSON, json.dumps({"object": "list", "data": models}).encode()
            case "/version":
                return 200, _JSON, b'{"version":"0.11.0"}'
            case "/v1/messages/count_tokens":
                return 200, _JSON, counted_tokens(body, self._serving())
            case "/v1/load_lora_adapter":
                return 200, _JSON, json.dumps(server.load_adapter(parse_object(body))).encode()
            case "/v1/unload_lora_adapter":
                return 200, _JSON, json.dumps(server.unload_adapter(parse_object(body))).encode()
            case "/sim/fault":
                server.faults.order(parse_object(body))
                return 200, _JSON, b"{}"
        return 200, "text/plain", b""

    def _model(self, name: str) -> JsonObject:
        spec = self._server.spec
        adapter = self._server.models.get(name)
        if adapter is None:
            raise ApiError(404, "NotFoundError", f"The model `{name}` does not exist.", "model")
        return {
            "id": name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "vllm",
            "root": f"/adapters/{name}" if adapter else name,
            "parent": spec.model if adapter else None,
            "max_model_len": None if adapter else spec.server.max_model_len,
        }

    def _serving(self) -> Serving:
        server = self._server
        return Serving(server.spec.server, server.models, server.requests, int(time.time()))

    # --- tokens ---------------------------------------------------------------------------------

    async def _generate(self, exchange: "SimulatedExchange", body: bytes, fault: WantedFault | None) -> None:
        server = self._server
        server.requests += 1
        generation = _GENERATE[exchange.path](body, self._serving())
        exchange.generation = generation
        reset = fault is not None and fault.kind == "reset"
        server.submit(generation.sequences, self)
        try:
            if not isinstance(generation, Embeddings) and generation.streamed:
                await self._stream_tokens(exchange, generation, reset)
            else:
                await self._reply_whole(exchange, generation, reset)
        finally:
            server.withdraw(generation.sequences)

    async def _reply_whole(self, exchange: "SimulatedExchange", generation: _Answer, reset: bool) -> None:
        while not all(s.done for s in generation.sequences):
            if self._left:
                raise ClientLeft
            await self._wait()
        body = generation.reply()
        exchange.status = 200
        if reset:
            await self._stream.send_all(self._head(200, _JSON, len(body)) + body[: len(body) // 2])
            await trio.sleep(READ_BEFORE_RESET)
            self._reset()
        await self._reply(200, _JSON, body)
        exchange.ended = "complete"

    async def _stream_tokens(self, exchange: "SimulatedExchange", generation: _Streamed, reset: bool) -> None:
        sequences = generation.sequences
        sent = [0] * len(sequences)
        head = b""
        while not all(n == s.target for n, s in zip(sent, sequences, strict=True)):
            if any(s.produced > n for n, s in zip(sent, sequences, strict=True)):
                events = b""
                if not exchange.status:
                    exchange.status = 200
                    head = self._head(200, "text/event-stream; charset=utf-8", None)
                    events = generation.opening()
                events += b"".join(generation.tokens(i, sent[i], s.produced) for i, s in enumerate(sequences))
                sent = [s.produced for s in sequences]
                await self._stream.send_all(head + self._data(events))
                head = b""
                if reset:
                    await trio.sleep(READ_BEFORE_RESET)
                    self._reset()
                continue
            if self._left:
                raise ClientLeft
            await self._wait()
        last = self._data(generation.closing())
        end = self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(last + end)
        exchange.ended = "complete"

    # --- bytes ----------------------------------------------------------------------------------

    def _head(self, status: int, kind: str, length: int | None) -> bytes:
        headers = [(b"server", b"uvicorn"), (b"content-type", kind.encode()), *self._identity]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        sent = self._http.send(h11.Response(status_code=status, headers=headers))
        assert sent is not None, "h11 gives the bytes of what it is sent"
        return sent

    def _data(self, data: bytes) -> bytes:
        return self._http.send(h11.Data(data=data)) or b""

    async def _reply(self, status: int, kind: str, body: bytes) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        head = self._head(status, kind, len(body))
        data = b"" if self._bodyless else self._data(body)
        end = self._http.send(h11.EndOfMessage()) or b""
        await self._stream.send_all(head + data + end)

    # --- faults ---------------------------------------------------------------------------------

    async def _misbehave(self, fault: WantedFault, exchange: "SimulatedExchange") -> None:
        """Do what the fault says, where that comes before the answer."""
        exchange.ended = "fault"
        match fault.kind:
            case "hang":
                while not self._left:
                    await self._wait()
                raise ClientLeft
            case "slow":
                await trio.sleep(fault.number)
            case "garbage":
                await self._stream.send_all(b"\x00\xffthis is not HTTP\r\n\r\n" * 8)
                raise ClientLeft
            case "nonsense":
                await self._reply(200, _JSON, b"}} nonsense {{")
                raise ClientLeft
            case "status":
                raise ApiError(int(fault.number), "InternalServerError", "the simulator was told to fail")
            case "reset" if exchange.path not in _GENERATE:
                self._reset()

    def _reset(self) -> NoReturn:
        self._stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()
        raise ClientLeft


class SimulatedExchange:
    """One request and what became of it."""

    def __init__(self, server: str, request: h11.Request) -> None:
        self.server = server
        self.method = request.method.decode()
        self.path = request.target.decode("latin-1").partition("?")[0]
        self.started = time.time()
        self.status = 0
        self.ended = "disconnected"
        self.generation: _Answer | None = None
        headers = dict(request.headers)
        self.request_id = headers.get(b"x-request-id", b"").decode("latin-1")
        self.fault = headers.get(b"x-sim-fault", b"").decode("latin-1")

    def identity(self) -> list[tuple[bytes, bytes]]:
        """Headers that tell the client the id of its request, as vLLM does where it is told to, and as Anthropic does.

        Behind a gateway that is the id under which the decision is found.
        """
        if not self.request_id:
            return []
        name = b"request-id" if self.path.startswith(_MESSAGES) else b"x-request-id"
        return [(name, self.request_id.encode("latin-1"))]

    def line(self) -> JsonObject:
        """The line of the request log about this request."""
        generation = self.generation
        return {
            "time": self.started,
            "request_id": self.request_id,
            "server": self.server,
            "path": self.path,
            "model": "" if generation is None else generation.model,
            "status": self.status,
            "ended": self.ended,
            "prompt_tokens": 0 if generation is None else generation.prompt_tokens,
            "completion_tokens": 0 if generation is None else generation.completion_tokens,
            "duration": time.time() - self.started,
        }
