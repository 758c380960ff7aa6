"""What responses of HTTP bring: messages for a receiver, or a fault in words.

Knows JSON, streams of events, statuses and bounds; knows nothing of how a request was sent,
or whether it is sent again. Imports the HTTP library: to be imported lazily, and in a thread.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Literal

import httpx2
import msgspec

from exai.upstream.carrier import Receiver
from exai.upstream.event_stream import EventStream
from exai.upstream.http_failures import FOREIGN_ERRORS, shown_words, status_answer
from exai.upstream.http_headers import HttpHeaders
from exai.upstream.json_rpc import BrokenAnswer, ServerLost, StatusAnswer
from exai.upstream.line_splitter import Overlong
from exai.upstream.shown_url import shown_url

_DRAIN_TIMEOUT_S = 0.1
_REFUSAL_TIMEOUT_S = 5.0
_MAX_REFUSAL_BYTES = 65_536
_EVENTS_A_TURN = 64
_KEPT_BYTES = 4096
_SAYS_ENOUGH = (401, 403, 429)
"""Statuses that say more than an error of JSON-RPC beside them."""


class BrokenOff(ServerLost):
    """A stream ended before the answer, which may be had by resuming it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason, was_written=True)


def forgotten() -> ServerLost:
    """Return the fault of a server that knows nothing of a session any more."""
    return ServerLost("forgot its session with us", was_written=False, has_moved_on=True)


class _ErrorAnswer(msgspec.Struct):
    """What makes a body an error of JSON-RPC."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    error: dict[str, Any]


class HttpAnswers:
    """Reads one response after the other, each for the request that it came for, if any."""

    def __init__(self, receiver: Receiver, headers: HttpHeaders, max_message_bytes: int) -> None:
        self._receiver = receiver
        self._headers = headers
        self._max_message_bytes = max_message_bytes

    async def take(
        self, response: httpx2.Response, stream: EventStream, owner: int | None
    ) -> Exception:
        """Take what a response brings; return what is at fault where that was no answer."""
        if (redirected := response.next_request) is not None:
            target = shown_url(str(redirected.url))
            return StatusAnswer(
                f"redirects to {target}, which is not followed: correct its url",
                status=response.status_code,
                may_have_run=False,
            )
        if not response.is_success:
            return await self._take_refusal(response, owner)
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
            for message in stream.feed(chunk):
                turn += 1
                if turn % _EVENTS_A_TURN == 0:
                    await asyncio.sleep(0)
                await self._receiver.take(message, owner)
            if owner is not None and (endless := stream.overgrown) is not None:
                await self._receiver.take(endless, owner)
            if owner is not None and not self._receiver.is_waiting(owner):
                await _read_to_end(chunks)
                break
        return BrokenOff("closed the stream before it answered")

    async def _take_body(self, response: httpx2.Response, owner: int | None) -> Exception:
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > self._max_message_bytes:
                head, tail = bytes(body[:_KEPT_BYTES]), bytes(body[-_KEPT_BYTES:])
                await self._receiver.take(Overlong(head, tail, len(body)), owner)
                break
        else:
            await self._receiver.take(body, owner)
        return BrokenAnswer("the answer is none")

    async def _take_refusal(self, response: httpx2.Response, owner: int | None) -> Exception:
        status, content_type = response.status_code, _content_type_of(response)
        if status == 404 and self._headers.has_session:
            return forgotten()
        body = await _read_head(response)
        if status == 400 and self._headers.has_session and _is_about_sessions(body):
            return forgotten()
        if status not in _SAYS_ENOUGH and _is_error_answer(body):
            await self._receiver.take(body, owner)
        words = self._headers.without_secrets(shown_words(body, content_type))
        return status_answer(status, words, response.headers.get("retry-after"))


def _content_type_of(response: httpx2.Response) -> str:
    return response.headers.get("content-type", "").partition(";")[0].strip().lower()[:100]


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
