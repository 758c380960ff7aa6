"""MCP's messages over streamable HTTP, in both eras, to one server for one of its lives.

Each request is an exchange of its own: a POST, and its answer as JSON or as a stream of
events, which is resumed where the server allows it. Knows sessions and what a status means;
knows nothing of what MCP's methods mean but for the few that open a session.

The SDK's client transport is not used: it holds the event loop for an answer of any size,
names no reason for a failure, does not tell whether a request was sent, and ends all requests
with the first that finds no connection. Its rules for headers and redirects are.
Imports the SDK: to be imported lazily, and in a thread.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx2

from exai.core.mcp_words import (
    CANCELLED,
    INITIALIZE,
    INITIALIZED,
    LISTEN,
    PROMPTS_CHANGED,
    RESOURCES_CHANGED,
    TOOLS_CHANGED,
    Era,
)
from exai.upstream.carrier import Carrier, Message, Receiver
from exai.upstream.event_stream import EventStream
from exai.upstream.http_answers import BrokenOff, HttpAnswers, forgotten
from exai.upstream.http_endpoint import CALL_TIMEOUTS, LISTENING_TIMEOUTS, HttpEndpoint
from exai.upstream.http_failures import FOREIGN_ERRORS, UNREACHABLE, unreachable
from exai.upstream.http_headers import HttpHeaders
from exai.upstream.json_rpc import ServerLost, StatusAnswer

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

_NOTE_TIMEOUT_S = 30.0
_STOP_GRACE_S = 2.0
_MAX_NOTES = 64
_MAX_RESUMPTIONS = 5
"""In a row, without an event in between."""
_FIRST_DELAY_S = 1.0
_MIN_DELAY_S = 0.1
_MAX_DELAY_S = 60.0
_MISSED = tuple(
    b'{"jsonrpc":"2.0","method":"%b"}' % method.encode()
    for method in (TOOLS_CHANGED, PROMPTS_CHANGED, RESOURCES_CHANGED)
)
"""What may have been said while nobody listened."""


class HttpCarrier(Carrier):
    """The way to one server at a URL; what it sent goes on when the way has ended."""

    requests_go_on = True
    _receiver: Receiver
    _answers: HttpAnswers

    def __init__(
        self,
        url: str,
        headers: HttpHeaders,
        *,
        client: httpx2.AsyncClient,
        start: Start,
        max_message_bytes: int,
    ) -> None:
        """Connect to nothing yet. Raises `CarrierUnusable`."""
        self._endpoint = HttpEndpoint(client, url)
        self._headers = headers
        self._start = start
        self._max_message_bytes = max_message_bytes
        self._ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._exchanges: dict[int, asyncio.Task[None]] = {}
        self._greeting: asyncio.Task[None] | None = None
        self._may_listen = asyncio.Event()
        self._notes: set[asyncio.Task[None]] = set()

    async def run(self, receiver: Receiver) -> str:
        """Let answers arrive until the server has gone, or forgot us; return how it ended."""
        self._receiver = receiver
        self._answers = HttpAnswers(receiver, self._headers, self._max_message_bytes)
        await asyncio.wait([self._ended])
        return self._ended.result()

    async def attend(self) -> None:
        """Hear what the server says without having been asked, as long as there is a session."""
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._listen())
            await asyncio.wait([self._ended])
            listening.cancel()

    @asynccontextmanager
    async def carry(self, request: Message) -> AsyncIterator[bool]:
        """Begin the exchange, and leave it when its answer is not wanted any more."""
        assert request.id is not None
        if self._greeting is not None:
            await asyncio.wait([self._greeting])
        if self.has_ended:
            raise ServerLost(self._ended.result(), was_written=False, has_moved_on=True)
        exchange = self._start(self._exchange(request, request.id))
        self._exchanges[request.id] = exchange
        try:
            yield True
        finally:
            del self._exchanges[request.id]
            if self._receiver.is_waiting(request.id):
                exchange.cancel()

    def cancel(self, request_id: int) -> bool:
        """Tell the server; since 2026, it is told by the end of the exchange, and answers not."""
        if self._headers.era is Era.MODERN:
            return False
        cancelled = {"requestId": request_id}
        self.notify(Message(method=CANCELLED, params=cancelled))
        return True

    def notify(self, message: Message) -> None:
        """Send a notification; since 2026, there are none that go this way."""
        headers = self._headers.of_message(message)
        if self._headers.era is Era.HANDSHAKE:
            is_greeting = message.method == INITIALIZED
            note = self._begin_note(message.encode(), headers, is_greeting)
            self._greeting = note if is_greeting else self._greeting

    async def write(self, answer: bytes) -> None:
        """Send an answer to a request of the server."""
        await self._post_note(answer, self._headers.of_answer(), is_greeting=False)

    def write_nowait(self, answer: bytes) -> None:
        """Send a short answer; a server that takes none of them is given up."""
        self._begin_note(answer, self._headers.of_answer(), is_greeting=False)

    async def know_tools(self, tools: Sequence[dict[str, Any]]) -> dict[str, str]:
        """Take note of the arguments that are sent as headers, too."""
        if self._headers.era is Era.HANDSHAKE:
            return {}
        return await asyncio.to_thread(self._headers.know_tools, tools)

    async def stop(self) -> None:
        """End what is under way, and the session, unless the way has ended before."""
        if self.has_ended:
            return
        self._end("was stopped")
        for request_id, exchange in self._exchanges.items():
            self._receiver.fail(request_id, _stopped())  # it may not even have begun
            exchange.cancel()
        if self._headers.has_session:
            headers = self._headers.of_stream(None)
            with suppress(TimeoutError, *FOREIGN_ERRORS):
                async with (
                    asyncio.timeout(_STOP_GRACE_S),
                    self._endpoint.sending("DELETE", headers),
                ):
                    pass

    async def _exchange(self, request: Message, request_id: int) -> None:
        """Bring the answer, or say why there is none: one of both, whatever happens."""
        fault: Exception = _stopped()
        try:
            fault = await self._fault_in_answer(request, request_id)
        finally:
            self._receiver.fail(request_id, fault)

    async def _fault_in_answer(self, request: Message, request_id: int) -> Exception:
        headers, stream = self._headers.of_message(request), EventStream(self._max_message_bytes)
        is_resumable = self._headers.era is Era.HANDSHAKE
        timeouts = LISTENING_TIMEOUTS if request.method == LISTEN else CALL_TIMEOUTS
        try:
            async with self._endpoint.sending(
                "POST", headers, request.encode(), timeouts
            ) as response:
                if request.method == INITIALIZE and response.is_success:
                    self._headers.take_session_id(response.headers)
                fault = await self._answers.take(response, stream, request_id)
        except UNREACHABLE as error:
            return self._noted(unreachable(error))
        except FOREIGN_ERRORS:
            fault = BrokenOff("broke the connection off before it answered")
        if is_resumable and isinstance(fault, BrokenOff):
            return await self._resume(stream, request_id, fault)
        return self._noted(fault)

    async def _resume(self, stream: EventStream, request_id: int, fault: Exception) -> Exception:
        """Ask for the rest of a stream as often as the server lets us; return the last fault."""
        failures = 0
        while failures < _MAX_RESUMPTIONS and stream.last_event_id is not None:
            await asyncio.sleep(_delay_s(stream, failures))
            event_count = stream.event_count
            try:
                async with self._endpoint.sending("GET", self._stream_headers(stream)) as response:
                    found = await self._answers.take(response, stream, request_id)
            except FOREIGN_ERRORS:
                found = fault
            if not self._receiver.is_waiting(request_id) or not _may_pass(found):
                return _as_sent(self._noted(found))
            failures = 0 if stream.event_count > event_count else failures + 1
        return fault

    def _begin_note(
        self, content: bytes, headers: dict[str, str], is_greeting: bool
    ) -> asyncio.Task[None] | None:
        if len(self._notes) >= _MAX_NOTES:
            self._end("does not take what it is sent")
            return None
        note = self._start(self._post_note(content, headers, is_greeting))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)
        return note

    async def _post_note(self, content: bytes, headers: dict[str, str], is_greeting: bool) -> None:
        try:
            with suppress(TimeoutError):
                async with (
                    asyncio.timeout(_NOTE_TIMEOUT_S),
                    self._endpoint.sending("POST", headers, content) as response,
                ):
                    if response.status_code == 404 and self._headers.has_session:
                        self._noted(forgotten())
                    elif is_greeting and response.is_success and self._headers.has_session:
                        self._may_listen.set()
        except UNREACHABLE as error:
            self._noted(unreachable(error))
        except FOREIGN_ERRORS:
            pass  # it is lost; what follows will tell whether the server is

    async def _listen(self) -> None:
        """Hear the stream that belongs to no request, until the server offers none."""
        await self._may_listen.wait()
        stream, failures, was_open = EventStream(self._max_message_bytes), 0, False
        while not self.has_ended:
            event_count = stream.event_count
            try:
                headers = self._stream_headers(stream)
                async with self._endpoint.sending(
                    "GET", headers, timeouts=LISTENING_TIMEOUTS
                ) as response:
                    if 400 <= response.status_code < 500:
                        if was_open and response.status_code == 404:
                            self._noted(forgotten())
                        return
                    if was_open and stream.last_event_id is None and response.is_success:
                        await self._suppose_changes()
                    was_open = was_open or response.is_success
                    await self._answers.take(response, stream, None)
            except UNREACHABLE as error:
                self._noted(unreachable(error))
            except FOREIGN_ERRORS:
                pass  # it broke off, as it may
            failures = 0 if stream.event_count > event_count else failures + 1
            await asyncio.sleep(_delay_s(stream, failures))

    async def _suppose_changes(self) -> None:
        for notification in _MISSED:
            await self._receiver.take(bytearray(notification))

    def _stream_headers(self, stream: EventStream) -> dict[str, str]:
        return {**self._headers.of_stream(stream.last_event_id), "accept": "text/event-stream"}

    def _noted(self, fault: Exception) -> Exception:
        """End with a fault that leaves the rest to the next life; return it."""
        if isinstance(fault, ServerLost) and fault.has_moved_on:
            self._end(str(fault))
        return fault

    def _end(self, how: str) -> None:
        if not self.has_ended:
            self.has_ended = True
            self._ended.set_result(how)


def _stopped() -> ServerLost:
    return ServerLost("was stopped", was_written=True)


def _may_pass(fault: Exception) -> bool:
    """Tell whether a stream that could not be resumed may be at the next try."""
    return isinstance(fault, BrokenOff) or (isinstance(fault, StatusAnswer) and fault.may_have_run)


def _as_sent(fault: Exception) -> Exception:
    """Return the fault in resuming as one of the request, which had been sent."""
    if isinstance(fault, ServerLost):
        return ServerLost(str(fault), was_written=True, has_moved_on=fault.has_moved_on)
    if isinstance(fault, StatusAnswer):
        return BrokenOff(f"closed the stream before it answered, and then {fault}")
    return fault


def _delay_s(stream: EventStream, failures: int) -> float:
    delay_s = _FIRST_DELAY_S if stream.retry_s is None else max(stream.retry_s, _MIN_DELAY_S)
    return float(min(delay_s * 2 ** max(0, failures - 1), _MAX_DELAY_S))
