"""A scripted LLM service: an OpenAI-compatible server on loopback that does as a test says.

    async with ScriptedProvider() as service:
        service.script(answers("The capital ", gate, "is Paris."))
        ...                                     # point a provider at service.base_url
        await service.wait_for_requests(1)
        gate.set()

A behaviour is a coroutine function over an `Exchange`; the functions at the end make the
usual ones. Nothing here sleeps: what must wait, waits for an `asyncio.Event`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec


class ScriptedRequest(msgspec.Struct, frozen=True):
    """One request as the service received it; header names are in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def model(self) -> str:
        """The model that was asked for."""
        return str(self.body.get("model", ""))

    @property
    def prompt(self) -> str:
        """The last message's text."""
        messages = self.body.get("messages") or [{}]
        return str(messages[-1].get("content", ""))


class Exchange:
    """One request and the answer to it, which a behaviour writes piece by piece.

    `model` is the one that the answer claims to come from.
    """

    def __init__(self, request: ScriptedRequest, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.model = request.model
        self._writer = writer
        self._is_streaming = False
        self.has_ended = False

    async def say(self, *pieces: str) -> None:
        """Stream text, one event a piece."""
        for piece in pieces:
            await self.send({"choices": [{"index": 0, "delta": {"content": piece}}]})

    async def finish(
        self, reason: str | None = "stop", *, usage: tuple[int, int] | None = (7, 5)
    ) -> None:
        """End the answer as a good service does; without `usage` as an older one does."""
        if reason is not None:
            await self.send({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        if usage is not None:
            counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
            await self.send({"choices": [], "usage": counts})
        await self.send_raw(b"data: [DONE]\n\n")
        await self.end()

    async def send(self, event: dict[str, Any]) -> None:
        """Stream one event of your own making."""
        event = {"object": "chat.completion.chunk", "model": self.model, **event}
        await self.send_raw(b"data: " + json.dumps(event).encode() + b"\n\n")

    async def send_raw(self, body: bytes) -> None:
        """Stream bytes, however wrong."""
        if not self._is_streaming:
            self._is_streaming = True
            headers = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
            self._writer.write(_head(200, headers))
        self._writer.write(b"%x\r\n%b\r\n" % (len(body), body))
        await self._writer.drain()
        await asyncio.sleep(0)  # draining does not wait, and a long answer is not to hold the loop

    async def end(self) -> None:
        """End the stream as HTTP wants it, whatever it holds."""
        self._writer.write(b"0\r\n\r\n")
        self.has_ended = True
        await self._writer.drain()

    async def reply(
        self, status: int, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Answer at once, without a stream."""
        self._writer.write(_head(status, {**(headers or {}), "content-length": str(len(body))}))
        self._writer.write(body)
        self.has_ended = True
        await self._writer.drain()

    def disconnect(self) -> None:
        """Drop the connection in the middle of whatever is going on."""
        self._writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]


class ScriptedProvider:
    """The service: what it was asked, what it does, and who hung up on it.

    An exception of a behaviour, other than one of a lost connection, is raised when the
    service closes.
    """

    def __init__(self) -> None:
        self.requests: list[ScriptedRequest] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self.connection_count = 0
        self.disconnect_count = 0
        self._always: Behaviour = echoes
        self._by_model: dict[str, Behaviour] = {}
        self._next: list[Behaviour] = []
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._faults: list[Exception] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await self.wait_until(lambda: not self._writers)
        if self._faults and error is None:
            raise ExceptionGroup("behaviours of the scripted provider failed", self._faults)

    @property
    def base_url(self) -> str:
        """Where an OpenAI-compatible client finds the service."""
        assert self._server is not None, "the service is not open"
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    def script(self, behaviour: Behaviour, *, model: str | None = None) -> None:
        """Behave so from now on: for requests of one model, or for all others."""
        if model is None:
            self._always = behaviour
        else:
            self._by_model[model] = behaviour

    def script_next(self, *behaviours: Behaviour) -> None:
        """Behave so once each, in this order, before anything else."""
        self._next.extend(behaviours)

    async def wait_for_requests(self, count: int, timeout_s: float = 5.0) -> None:
        """Wait until `count` requests in all have arrived. Raises `TimeoutError`."""
        await self.wait_until(lambda: len(self.requests) >= count, timeout_s)

    async def wait_for_disconnects(self, count: int, timeout_s: float = 5.0) -> None:
        """Wait until clients have left `count` answers unfinished. Raises `TimeoutError`."""
        await self.wait_until(lambda: self.disconnect_count >= count, timeout_s)

    async def wait_until_idle(self, timeout_s: float = 5.0) -> None:
        """Wait until no request is in flight. Raises `TimeoutError`."""
        await self.wait_until(lambda: self.in_flight == 0, timeout_s)

    async def wait_until(self, condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
        """Wait until a condition over this object's counts holds. Raises `TimeoutError`."""
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def _accept(self) -> asyncio.StreamReaderProtocol:
        reader = _WatchedReader()
        return asyncio.StreamReaderProtocol(reader, lambda _, writer: self._serve(reader, writer))

    async def _serve(self, reader: "_WatchedReader", writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connection_count += 1
        try:
            while (request := await _read_request(reader)) is not None:
                exchange = Exchange(request, writer)
                await self._answer(exchange, reader.has_hung_up)
                if not exchange.has_ended:
                    break
        except ConnectionError:
            pass  # an idle connection that the client dropped: no answer was lost
        finally:
            writer.close()
            self._writers.discard(writer)
            self._changed.set()

    async def _answer(self, exchange: Exchange, has_hung_up: asyncio.Event) -> None:
        self.requests.append(exchange.request)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self._changed.set()
        try:
            async with asyncio.TaskGroup() as tasks:
                work = tasks.create_task(self._behave(exchange))
                leave = tasks.create_task(has_hung_up.wait())
                await asyncio.wait((work, leave), return_when=asyncio.FIRST_COMPLETED)
                if not work.done():
                    self.disconnect_count += 1
                work.cancel()
                leave.cancel()
        finally:
            self.in_flight -= 1
            self._changed.set()

    async def _behave(self, exchange: Exchange) -> None:
        try:
            await self._behaviour_for(exchange.request)(exchange)
        except ConnectionError:
            self.disconnect_count += 1
        except Exception as fault:  # noqa: BLE001  a test's own code; raised at the end
            self._faults.append(fault)

    def _behaviour_for(self, request: ScriptedRequest) -> Behaviour:
        if self._next:
            return self._next.pop(0)
        return self._by_model.get(request.model, self._always)


async def echoes(exchange: Exchange) -> None:
    """Say the prompt back, word by word: what an unscripted service does."""
    words = exchange.request.prompt.split(" ")
    await exchange.say(words[0], *(f" {word}" for word in words[1:]))
    await exchange.finish()


def answers(
    *steps: str | asyncio.Event,
    reason: str | None = "stop",
    usage: tuple[int, int] | None = (7, 5),
) -> Behaviour:
    """Say each text; at each event wait for it first."""

    async def behave(exchange: Exchange) -> None:
        await _take(exchange, steps)
        await exchange.finish(reason, usage=usage)

    return behave


def fails(
    status: int,
    *,
    headers: dict[str, str] | None = None,
    message: str = "the script says no",
    code: str | None = None,
) -> Behaviour:
    """Refuse with an HTTP status and an error body."""

    async def behave(exchange: Exchange) -> None:
        body = json.dumps({"error": {"message": message, "type": "scripted", "code": code}})
        headers_sent = {"content-type": "application/json", **(headers or {})}
        await exchange.reply(status, body.encode(), headers_sent)

    return behave


def disconnects(*steps: str | asyncio.Event) -> Behaviour:
    """Say something, then drop the connection."""

    async def behave(exchange: Exchange) -> None:
        await _take(exchange, steps)
        exchange.disconnect()

    return behave


def ends_early(*steps: str | asyncio.Event) -> Behaviour:
    """Say something, then end the stream politely before the answer is whole."""

    async def behave(exchange: Exchange) -> None:
        await _take(exchange, steps)
        await exchange.end()

    return behave


def streams_raw(*bodies: bytes) -> Behaviour:
    """Stream bytes that may be no events at all, then end."""

    async def behave(exchange: Exchange) -> None:
        for body in bodies:
            await exchange.send_raw(body)
        await exchange.end()

    return behave


async def never_answers(exchange: Exchange) -> None:
    """Take the request and say nothing until the client hangs up."""
    await asyncio.Event().wait()


class _WatchedReader(asyncio.StreamReader):
    """A reader that notices the end of its connection while nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.has_hung_up = asyncio.Event()

    def feed_eof(self) -> None:
        super().feed_eof()
        self.has_hung_up.set()

    def set_exception(self, exc: Exception) -> None:
        super().set_exception(exc)
        self.has_hung_up.set()


async def _take(exchange: Exchange, steps: tuple[str | asyncio.Event, ...]) -> None:
    for step in steps:
        if isinstance(step, str):
            await exchange.say(step)
        else:
            await step.wait()


async def _read_request(reader: asyncio.StreamReader) -> ScriptedRequest | None:
    """Return the next request; None when the client has said all it wanted."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    except asyncio.IncompleteReadError:
        return None
    return ScriptedRequest(start.split(" ")[1], headers, json.loads(body or b"{}"))


def _head(status: int, headers: dict[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
