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
from typing import Any, Literal

import httpx2
import msgspec
from mcp.shared._httpx_utils import next_request_within_origin, redirect_location

from exai.upstream.carrier import Carrier, CarrierUnusable, Message, Receiver
from exai.upstream.event_stream import EventStream
from exai.upstream.http_failures import (
    FOREIGN_ERRORS,
    UNREACHABLE,
    reason_unreachable,
    shown_words,
    status_answer,
)
from exai.upstream.http_headers import INITIALIZE, HttpHeaders
from exai.upstream.json_rpc import BrokenAnswer, ServerLost, StatusAnswer
from exai.upstream.line_splitter import Overlong
from exai.upstream.shown_url import shown_url

Start = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_S = 300.0
_TIMEOUTS = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
"""A call's own deadline ends what takes long."""
_LISTENING_TIMEOUTS = httpx2.Timeout(_SILENCE_S, connect=_CONNECT_TIMEOUT_S, pool=None)
"""A connection that is dead without having been closed is noticed at last."""
_NOTE_TIMEOUT_S = 30.0
_STOP_GRACE_S = 2.0
_DRAIN_TIMEOUT_S = 0.1
_REFUSAL_TIMEOUT_S = 5.0
_MAX_REFUSAL_BYTES = 65_536
_MAX_NOTES = 64
_MAX_REDIRECTS = 3
_EVENTS_A_TURN = 64
_KEPT_BYTES = 4096
_MAX_RESUMPTIONS = 5
"""In a row, without an event in between."""
_FIRST_DELAY_S = 1.0
_MIN_DELAY_S = 0.1
_MAX_DELAY_S = 60.0
_SAYS_ENOUGH = (401, 403, 429)
"""Statuses that say more than an error of JSON-RPC beside them."""
_LISTEN = "subscriptions/listen"
_MISSED = tuple(
    b'{"jsonrpc":"2.0","method":"notifications/%b/list_changed"}' % kind
    for kind in (b"tools", b"prompts", b"resources")
)
"""What may have been said while nobody listened."""


class _ErrorAnswer(msgspec.Struct):
    """What makes a body an error of JSON-RPC."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    error: dict[str, Any]


class _BrokenOff(ServerLost):
    """A stream ended before the answer, which may be had by resuming it."""


class HttpCarrier(Carrier):
    """The way to one server at a URL; what it sent goes on when the way has ended."""

    requests_go_on = True
    _receiver: Receiver

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
        self._url = _parsed(url)
        self._headers = headers
        self._client = client
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
        if self._headers.is_modern:
            return False
        cancelled = {"requestId": request_id}
        self.notify(Message(method="notifications/cancelled", params=cancelled))
        return True

    def notify(self, message: Message) -> None:
        """Send a notification; since 2026, there are none that go this way."""
        headers = self._headers.of_message(message)
        if not self._headers.is_modern:
            is_greeting = message.method == "notifications/initialized"
            note = self._begin_note(message.encode(), headers, is_greeting)
            self._greeting = note if is_greeting else self._greeting

    async def write(self, answer: bytes) -> None:
        """Send an answer to a request of the server."""
        await self._post_note(answer, self._headers.of_answer(), is_greeting=False)

    def write_nowait(self, answer: bytes) -> None:
        """Send a short answer; a server that takes none of them is given up."""
        self._begin_note(answer, self._headers.of_answer(), is_greeting=False)

    async def know_tools(self, tools: Sequence[dict[str, Any]]) -> None:
        """Take note of the arguments that are sent as headers, too."""
        if self._headers.is_modern:
            await asyncio.to_thread(self._headers.know_tools, tools)

    async def stop(self) -> None:
        """End what is under way, and the session, unless the way has ended before."""
        if self.has_ended:
            return
        self._end("was stopped")
        for request_id, exchange in self._exchanges.items():
            self._receiver.fail(request_id, _stopped())  # it may not even have begun
            exchange.cancel()
        if self._has_session:
            headers = self._headers.of_stream(None)
            with suppress(TimeoutError, *FOREIGN_ERRORS):
                async with asyncio.timeout(_STOP_GRACE_S), self._sending("DELETE", headers):
                    pass

    # -- exchanges

    async def _exchange(self, request: Message, request_id: int) -> None:
        """Bring the answer, or say why there is none: one of both, whatever happens."""
        fault: Exception = _stopped()
        try:
            fault = await self._fault_in_answer(request, request_id)
        finally:
            self._receiver.fail(request_id, fault)

    async def _fault_in_answer(self, request: Message, request_id: int) -> Exception:
        headers, stream = self._headers.of_message(request), EventStream(self._max_message_bytes)
        is_resumable = not self._headers.is_modern
        timeouts = _LISTENING_TIMEOUTS if request.method == _LISTEN else _TIMEOUTS
        try:
            async with self._sending("POST", headers, request.encode(), timeouts) as response:
                if request.method == INITIALIZE and response.is_success:
                    self._headers.take_session_id(response.headers)
                fault = await self._take_response(response, stream, request_id)
        except UNREACHABLE as error:
            return self._unreachable(error)
        except FOREIGN_ERRORS:
            fault = _broken_off()
        if is_resumable and isinstance(fault, _BrokenOff):
            return await self._resume(stream, request_id, fault)
        return fault

    async def _resume(self, stream: EventStream, request_id: int, fault: Exception) -> Exception:
        """Ask for the rest of a stream as often as the server lets us; return the last fault."""
        failures = 0
        while failures < _MAX_RESUMPTIONS and stream.last_event_id is not None:
            await asyncio.sleep(_delay_s(stream, failures))
            event_count = stream.event_count
            try:
                async with self._sending("GET", self._stream_headers(stream)) as response:
                    found = await self._take_response(response, stream, request_id)
            except FOREIGN_ERRORS:
                found = fault
            if not self._receiver.is_waiting(request_id) or not _may_pass(found):
                return _as_sent(found)
            failures = 0 if stream.event_count > event_count else failures + 1
        return fault

    async def _take_response(
        self, response: httpx2.Response, stream: EventStream, owner: int | None
    ) -> Exception:
        """Take what a response brings; return what is at fault where that was no answer."""
        if (location := redirect_location(response)) is not None:
            return StatusAnswer(
                f"redirects to {shown_url(str(location))}, which is not followed: correct its url",
                status=response.status_code,
                may_have_run=False,
            )
        if not response.is_success:
            return await self._refusal(response, owner)
        content_type = _content_type_of(response)
        if response.headers.get("content-encoding", "identity") != "identity":
            return BrokenAnswer("the answer is compressed, which was not asked for")
        if content_type == "text/event-stream":
            return await self._take_events(response, stream, owner)
        if content_type == "application/json":
            return await self._take_body(response, owner)
        status, kind = response.status_code, content_type or "without a type"
        return BrokenAnswer(f"the answer is {kind} (status {status}), not JSON")

    async def _take_events(
        self, response: httpx2.Response, stream: EventStream, owner: int | None
    ) -> Exception:
        stream.begin()
        chunks = response.aiter_raw()
        turn = 0
        async for chunk in chunks:
            self.received_bytes += len(chunk)
            for message in stream.feed(chunk):
                turn += 1
                if turn % _EVENTS_A_TURN == 0:
                    await asyncio.sleep(0)
                await self._receiver.take(message, owner)
            if owner is not None and not self._receiver.is_waiting(owner):
                await _read_to_end(chunks)
                break
        return _broken_off("closed the stream before it answered")

    async def _take_body(self, response: httpx2.Response, owner: int | None) -> Exception:
        body = bytearray()
        async for chunk in response.aiter_raw():
            self.received_bytes += len(chunk)
            body += chunk
            if len(body) > self._max_message_bytes:
                head, tail = bytes(body[:_KEPT_BYTES]), bytes(body[-_KEPT_BYTES:])
                await self._receiver.take(Overlong(head, tail, len(body)), owner)
                break
        else:
            await self._receiver.take(body, owner)
        return BrokenAnswer("the answer is none")

    async def _refusal(self, response: httpx2.Response, owner: int | None) -> Exception:
        status, content_type = response.status_code, _content_type_of(response)
        if status == 404 and self._has_session:
            return self._forgotten()
        body = await _read_head(response)
        if status == 400 and self._has_session and _is_about_sessions(body):
            return self._forgotten()
        if status not in _SAYS_ENOUGH and _is_error_answer(body):
            await self._receiver.take(body, owner)
        words = self._headers.without_secrets(shown_words(body, content_type))
        return status_answer(status, words, response.headers.get("retry-after"))

    # -- notes: what has no answer

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
                    self._sending("POST", headers, content) as response,
                ):
                    if response.status_code == 404 and self._has_session:
                        self._forgotten()
                    elif is_greeting and response.is_success and self._has_session:
                        self._may_listen.set()
        except UNREACHABLE as error:
            self._unreachable(error)
        except FOREIGN_ERRORS:
            pass  # it is lost; what follows will tell whether the server is

    # -- listening

    async def _listen(self) -> None:
        """Hear the stream that belongs to no request, until the server offers none."""
        await self._may_listen.wait()
        stream, failures, was_open = EventStream(self._max_message_bytes), 0, False
        while not self.has_ended:
            event_count = stream.event_count
            try:
                headers = self._stream_headers(stream)
                async with self._sending("GET", headers, timeouts=_LISTENING_TIMEOUTS) as response:
                    if 400 <= response.status_code < 500:
                        if was_open and response.status_code == 404:
                            self._forgotten()
                        return
                    if was_open and stream.last_event_id is None and response.is_success:
                        await self._suppose_changes()
                    was_open = was_open or response.is_success
                    await self._take_response(response, stream, None)
            except UNREACHABLE as error:
                self._unreachable(error)
            except FOREIGN_ERRORS:
                pass  # it broke off, as it may
            failures = 0 if stream.event_count > event_count else failures + 1
            await asyncio.sleep(_delay_s(stream, failures))

    async def _suppose_changes(self) -> None:
        for notification in _MISSED:
            await self._receiver.take(bytearray(notification))

    # -- what both need

    @asynccontextmanager
    async def _sending(
        self,
        method: str,
        headers: dict[str, str],
        content: bytes | None = None,
        timeouts: httpx2.Timeout = _TIMEOUTS,
    ) -> AsyncIterator[httpx2.Response]:
        """Send what only the URL's own origin may get, and be redirected within that."""
        request: httpx2.Request | None = self._client.build_request(
            method, self._url, headers=headers, content=content, timeout=timeouts
        )
        for _ in range(_MAX_REDIRECTS + 1):
            assert request is not None
            response = await self._client.send(request, stream=True, follow_redirects=False)
            if (request := next_request_within_origin(response)) is None:
                break
            await response.aclose()
        try:
            yield response
        finally:
            await response.aclose()

    @property
    def _has_session(self) -> bool:
        return self._headers.session_id is not None and not self._headers.is_modern

    def _stream_headers(self, stream: EventStream) -> dict[str, str]:
        return {**self._headers.of_stream(stream.last_event_id), "accept": "text/event-stream"}

    def _unreachable(self, error: BaseException) -> ServerLost:
        reason = reason_unreachable(error)
        self._end(reason)
        return ServerLost(reason, was_written=False, has_moved_on=True)

    def _forgotten(self) -> ServerLost:
        reason = "forgot its session with us"
        self._end(reason)
        return ServerLost(reason, was_written=False, has_moved_on=True)

    def _end(self, how: str) -> None:
        if not self.has_ended:
            self.has_ended = True
            self._ended.set_result(how)


def _parsed(url: str) -> httpx2.URL:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        parsed = httpx2.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise CarrierUnusable("its url is none of http:// or https://")
    return parsed


def _content_type_of(response: httpx2.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()[:100]


def _stopped() -> ServerLost:
    return ServerLost("was stopped", was_written=True)


def _broken_off(how: str = "broke the connection off before it answered") -> _BrokenOff:
    return _BrokenOff(how, was_written=True)


def _may_pass(fault: Exception) -> bool:
    """Tell whether a stream that could not be resumed may be at the next try."""
    return isinstance(fault, _BrokenOff) or (isinstance(fault, StatusAnswer) and fault.may_have_run)


def _as_sent(fault: Exception) -> Exception:
    """Return the fault in resuming as one of the request, which had been sent."""
    if isinstance(fault, ServerLost):
        return ServerLost(str(fault), was_written=True, has_moved_on=fault.has_moved_on)
    if isinstance(fault, StatusAnswer):
        return _broken_off(f"closed the stream before it answered, and then {fault}")
    return fault


def _is_about_sessions(body: bytes | bytearray) -> bool:
    """Tell whether a bad request means an unknown session, as many servers put it."""
    words = bytes(body[:1000]).lower()
    return b"session" in words or b"not initialized" in words


def _is_error_answer(body: bytes | bytearray) -> bool:
    try:
        msgspec.json.decode(body, type=_ErrorAnswer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _delay_s(stream: EventStream, failures: int) -> float:
    delay_s = _FIRST_DELAY_S if stream.retry_s is None else max(stream.retry_s, _MIN_DELAY_S)
    return float(min(delay_s * 2 ** max(0, failures - 1), _MAX_DELAY_S))


async def _read_head(response: httpx2.Response) -> bytearray:
    head = bytearray()
    with suppress(TimeoutError, *FOREIGN_ERRORS):
        async with asyncio.timeout(_REFUSAL_TIMEOUT_S):
            async for chunk in response.aiter_raw():
                head += chunk
                if len(head) > _MAX_REFUSAL_BYTES:
                    break
    return head


async def _read_to_end(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the answer, usually nothing, so that the connection can stay."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            async for _ in chunks:
                pass
