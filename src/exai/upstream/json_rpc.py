"""Requests to a server and their answers, in JSON-RPC, over whatever carries it.

Knows ids, progress tokens, cancellation and what becomes of a request whose answer is
unusable or never comes; knows nothing of what MCP's methods mean. Whatever happens, every
request ends: with its answer, its error, or the server's end.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from exai.core import mcp_words
from exai.core.errors import ResultTooLarge
from exai.upstream.carrier import Carrier, Message, Receiver, too_large
from exai.upstream.line_splitter import Overlong
from exai.upstream.messages import (
    TooIntricate,
    Unreadable,
    decode_message,
    find_id,
    id_of,
    is_surely_no_answer,
)
from exai.upstream.server_requests import OnRequest, ServerRequests
from exai.upstream.speech import Speech

NO_HEADERS: Mapping[str, str] = {}

OnProgress = Callable[[dict[str, Any]], None]
OnNotification = Callable[[str, dict[str, Any]], None]
"""Told the method and the params of each notification of the server. Never waits."""


class ErrorAnswer(Exception):
    """The server answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class BrokenAnswer(Exception):
    """The server's answer cannot be used; `str()` says why."""


class StatusAnswer(Exception):
    """The server answered with a status of HTTP, and nothing else; `str()` says what it means.

    `may_have_run` tells whether it may have done what was asked, `retryable` whether the same
    request may succeed later, maybe after `retry_after_s`.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int,
        may_have_run: bool,
        retryable: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.may_have_run = may_have_run
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class ServerLost(Exception):
    """The server ended, or broke off, before it answered; `str()` says how.

    `was_written` tells whether it may have got the request, or was about to; `has_moved_on`
    that the next life can take what it did not get.
    """

    def __init__(self, reason: str, *, was_written: bool, has_moved_on: bool = False) -> None:
        super().__init__(reason)
        self.was_written = was_written
        self.has_moved_on = has_moved_on


FAULTS = (ErrorAnswer, BrokenAnswer, StatusAnswer, ServerLost, ResultTooLarge)
"""All that a request may raise."""


class Requests(Protocol):
    """What a handshake needs of a connection."""

    async def request(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> dict[str, Any]:
        """Send a request and return its result."""

    def notify(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Send a notification."""


class _Waiting:
    """A request without an answer yet."""

    def __init__(
        self, answer: asyncio.Future[dict[str, Any]], on_progress: OnProgress | None
    ) -> None:
        self.answer = answer
        self.on_progress = on_progress
        self.was_written = False
        self.is_over = False

    def succeed(self, result: dict[str, Any]) -> None:
        self.is_over = True
        if not self.answer.done():
            self.answer.set_result(result)

    def fail(self, error: Exception) -> None:
        self.is_over = True
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # seen, even if nobody waits any more


class JsonRpcConnection(Requests, Receiver):
    """The requests under way in one life of a server, from its start to its end.

    `received_bytes` is how much the server has said so far.
    """

    def __init__(
        self,
        carrier: Carrier,
        *,
        speech: Speech,
        max_result_bytes: int,
        on_notification: OnNotification,
        on_request: OnRequest | None = None,
    ) -> None:
        self.received_bytes = 0
        self._end: str | None = None
        self._carrier = carrier
        self._speech = speech
        self._max_result_bytes = max_result_bytes
        self._on_notification = on_notification
        self._server_requests = ServerRequests(on_request, carrier.write, carrier.write_nowait)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing can be requested any more."""
        return self._end is not None or self._carrier.has_ended

    async def run(self) -> str:
        """Take the server's messages until its end; return how it ended."""
        try:
            async with self._server_requests:
                self._end = await self._carrier.run(self)
        finally:
            self._end = self._end or "was stopped"
            if not self._carrier.requests_go_on:
                for waiting in self._waiting.values():
                    waiting.fail(ServerLost(self._end, was_written=waiting.was_written))
        return self._end

    async def request(
        self,
        method: str,
        params: dict[str, Any],
        *,
        on_progress: OnProgress | None = None,
        cancel_grace_s: float | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> dict[str, Any]:
        """Send a request and return its result.

        When cancelled and given a `cancel_grace_s`, tells the server, and waits for the
        end of its work for that long. Raises one of `FAULTS`.
        """
        if self._end is not None:
            raise ServerLost(self._end, was_written=False)
        request_id = next(self._ids)
        if on_progress is not None:
            meta = {**params.get("_meta", {}), mcp_words.PROGRESS_TOKEN: request_id}
            params = {**params, "_meta": meta}
        request = Message(method=method, params=params, id=request_id, headers=headers)
        waiting = self._waiting[request_id] = _Waiting(self._loop.create_future(), on_progress)
        try:
            async with self._carrier.carry(request) as waiting.was_written:
                try:
                    return await waiting.answer
                except asyncio.CancelledError:
                    if cancel_grace_s is not None:
                        await self._cancel(request_id, waiting, cancel_grace_s)
                    raise
        finally:
            del self._waiting[request_id]

    def notify(
        self, method: str, params: dict[str, Any], *, headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Send a notification; it is lost where the server has ended."""
        self._carrier.notify(Message(method=method, params=params, headers=headers))

    async def take(self, line: bytearray | Overlong, owner: int | None = None) -> None:
        """Take a message; what is unusable fails the request that it was meant for."""
        if isinstance(line, Overlong):
            self.received_bytes += line.size_bytes
            self._drop_overlong(line, owner)
            return
        self.received_bytes += len(line)
        try:
            message = await decode_message(line)
        except Unreadable as unreadable:
            self._fail(find_id(line, line), owner, BrokenAnswer(f"the answer is {unreadable}"))
            self._speech.say(_speakable(line))
        except TooIntricate as intricate:
            too_much = too_large(str(intricate), self._max_result_bytes)
            self._fail(find_id(line, line), owner, too_much)
        else:
            self._take(message, owner)

    def fail(self, request_id: int, error: Exception) -> None:
        """End a request that has no answer yet."""
        if waiting := self._waiting.get(request_id):
            waiting.fail(error)

    def is_waiting(self, request_id: int) -> bool:
        """Tell whether a request has no answer yet."""
        waiting = self._waiting.get(request_id)
        return waiting is not None and not waiting.is_over

    async def _cancel(self, request_id: int, waiting: _Waiting, grace_s: float) -> None:
        # The answer may have come since, and found a future that was cancelled with us.
        if waiting.was_written and not waiting.is_over and self._carrier.cancel(request_id):
            waiting.answer = self._loop.create_future()
            await asyncio.wait([waiting.answer], timeout=grace_s)

    def _take(self, message: dict[str, Any], owner: int | None) -> None:
        match message:
            case {"method": str() as method, "id": request_id}:
                self._server_requests.take(request_id, method, _params_of(message))
            case {
                "method": mcp_words.PROGRESS,
                "params": {mcp_words.PROGRESS_TOKEN: token} as params,
            }:
                waiting = self._waiting.get(id_of(token) or 0)
                if waiting is not None and waiting.on_progress and not waiting.answer.done():
                    waiting.on_progress(params)
            case {"method": str() as method}:
                self._hear(method, _params_of(message))
            case {"id": answered_id, "result": dict() as result}:
                if waiting := self._find_waiting(id_of(answered_id), owner):
                    waiting.succeed(result)
            case {"id": answered_id, "error": {"code": int() as code, "message": str() as text}}:
                error = ErrorAnswer(code, text, message["error"].get("data"))
                self._fail(id_of(answered_id), owner, error)
            case {"id": answered_id}:
                no_answer = BrokenAnswer("the answer has no result")
                self._fail(id_of(answered_id), owner, no_answer)

    def _hear(self, method: str, params: dict[str, Any]) -> None:
        if method == mcp_words.CANCELLED:
            self._server_requests.take_back(params.get("requestId"))
        else:
            self._on_notification(method, params)

    def _drop_overlong(self, line: Overlong, owner: int | None) -> None:
        too_much = too_large(f"{line.size_bytes:,} bytes", self._max_result_bytes)
        answered_id = find_id(line.head, line.tail)
        if answered_id is not None or (owner is not None and not is_surely_no_answer(line.head)):
            self._fail(answered_id, owner, too_much)
        elif not is_surely_no_answer(line.head):
            # Whose answer it was cannot be told; that none waits for ever can.
            for waiting in self._waiting.values():
                waiting.fail(too_much)

    def _fail(self, request_id: int | None, owner: int | None, error: Exception) -> None:
        if waiting := self._find_waiting(request_id, owner):
            waiting.fail(error)

    def _find_waiting(self, request_id: int | None, owner: int | None) -> _Waiting | None:
        return self._waiting.get(request_id or 0) or self._waiting.get(owner or 0)


def _speakable(line: bytearray) -> bytes | bytearray:
    """Return what may be shown of an unreadable line: nothing of what looks like an answer."""
    looks_like_json = line.lstrip().startswith(b"{")
    return b"[unreadable JSON, %d bytes]" % len(line) if looks_like_json else line


def _params_of(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params")
    return params if isinstance(params, dict) else {}
