"""Requests to a server and their answers, over lines of JSON-RPC.

Knows ids, progress tokens, cancellation and what becomes of a request whose answer is
unusable or never comes; knows nothing of what MCP's methods mean. Whatever happens, every
request ends: with its answer, its error, or the server's end.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from exai.core.errors import ResultTooLarge
from exai.upstream.line_splitter import Overlong
from exai.upstream.messages import (
    TooIntricate,
    Unreadable,
    decode_message,
    find_id,
    id_of,
    is_surely_no_answer,
)
from exai.upstream.server_process import ServerProcess
from exai.upstream.server_requests import OnRequest, ServerRequests
from exai.upstream.speech import Speech

OnProgress = Callable[[dict[str, Any]], None]
OnNotification = Callable[[str, dict[str, Any]], None]
"""Told the method and the params of each notification of the server. Never waits."""

_encode = msgspec.json.Encoder().encode


class ErrorAnswer(Exception):
    """The server answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class BrokenAnswer(Exception):
    """The server's answer cannot be used; `str()` says why."""


class ServerLost(Exception):
    """The server ended before it answered; `str()` says how.

    `was_written` tells whether it may have got the request, or was about to.
    """

    def __init__(self, reason: str, *, was_written: bool) -> None:
        super().__init__(reason)
        self.was_written = was_written


FAULTS = (ErrorAnswer, BrokenAnswer, ServerLost, ResultTooLarge)
"""All that a request may raise."""


class Requests(Protocol):
    """What a handshake needs of a connection."""

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Send a request and return its result."""

    def notify(self, method: str, params: dict[str, Any]) -> None:
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


class JsonRpcConnection(Requests):
    """The requests under way on one server process, from its start to its end."""

    def __init__(
        self,
        process: ServerProcess,
        *,
        speech: Speech,
        max_result_bytes: int,
        on_notification: OnNotification,
        on_request: OnRequest | None = None,
    ) -> None:
        self.is_over = False
        self._end = "has ended"
        self._process = process
        self._speech = speech
        self._max_result_bytes = max_result_bytes
        self._on_notification = on_notification
        self._server_requests = ServerRequests(
            on_request, process.write_line, process.write_line_nowait
        )
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}

    @property
    def received_bytes(self) -> int:
        """How much the server has written so far."""
        return self._process.received_bytes

    async def run(self) -> str:
        """Take the server's messages until its end; return how it ended."""
        try:
            async with self._server_requests:
                async for line in self._process.lines():
                    if isinstance(line, Overlong):
                        self._drop_overlong(line)
                    else:
                        await self._take_line(line)
                self.is_over = True
            self._end = await self._process.describe_end()
        except asyncio.CancelledError:
            self._end = "was stopped"
            raise
        finally:
            self.is_over = True
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
    ) -> dict[str, Any]:
        """Send a request and return its result.

        When cancelled and given a `cancel_grace_s`, tells the server, and waits for the
        end of its work for that long. Raises `ErrorAnswer`, `BrokenAnswer`, `ServerLost`,
        `ResultTooLarge`.
        """
        if self.is_over:
            raise ServerLost(self._end, was_written=False)
        request_id = next(self._ids)
        if on_progress is not None:
            meta = {**params.get("_meta", {}), "progressToken": request_id}
            params = {**params, "_meta": meta}
        waiting = self._waiting[request_id] = _Waiting(self._loop.create_future(), on_progress)
        try:
            line = _encode_message(method, params, id=request_id)
            waiting.was_written = await self._process.write_line(line)
            return await waiting.answer
        except asyncio.CancelledError:
            # The answer may have come since, and found a future that was cancelled with us.
            is_running = waiting.was_written and not waiting.is_over
            if is_running and cancel_grace_s is not None:
                waiting.answer = self._loop.create_future()
                self.notify("notifications/cancelled", {"requestId": request_id})
                await asyncio.wait([waiting.answer], timeout=cancel_grace_s)
            raise
        finally:
            del self._waiting[request_id]

    def notify(self, method: str, params: dict[str, Any]) -> None:
        """Send a notification; it is lost where the server has ended."""
        self._process.write_line_nowait(_encode_message(method, params))

    async def _take_line(self, line: bytearray) -> None:
        try:
            message = await decode_message(line)
        except Unreadable as unreadable:
            self._fail(find_id(line, line), BrokenAnswer(f"the answer is {unreadable}"))
            self._speech.say(_speakable(line))
        except TooIntricate as intricate:
            self._fail(find_id(line, line), self._too_large(str(intricate)))
        else:
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        match message:
            case {"method": str() as method, "id": request_id}:
                self._server_requests.take(request_id, method, _params_of(message))
            case {"method": "notifications/progress", "params": {"progressToken": token} as params}:
                waiting = self._waiting.get(id_of(token) or 0)
                if waiting is not None and waiting.on_progress and not waiting.answer.done():
                    waiting.on_progress(params)
            case {"method": str() as method}:
                self._hear(method, _params_of(message))
            case {"id": answered_id, "result": dict() as result}:
                if waiting := self._waiting.get(id_of(answered_id) or 0):
                    waiting.succeed(result)
            case {"id": answered_id, "error": {"code": int() as code, "message": str() as text}}:
                error = ErrorAnswer(code, text, message["error"].get("data"))
                self._fail(id_of(answered_id), error)
            case {"id": answered_id}:
                self._fail(id_of(answered_id), BrokenAnswer("the answer has no result"))

    def _hear(self, method: str, params: dict[str, Any]) -> None:
        if method == "notifications/cancelled":
            self._server_requests.take_back(params.get("requestId"))
        else:
            self._on_notification(method, params)

    def _drop_overlong(self, line: Overlong) -> None:
        too_large = self._too_large(f"{line.size_bytes:,} bytes")
        if (answered_id := find_id(line.head, line.tail)) is not None:
            self._fail(answered_id, too_large)
        elif not is_surely_no_answer(line.head):
            # Whose answer it was cannot be told; that none waits for ever can.
            for waiting in self._waiting.values():
                waiting.fail(too_large)

    def _fail(self, request_id: int | None, error: Exception) -> None:
        if waiting := self._waiting.get(request_id or 0):
            waiting.fail(error)

    def _too_large(self, size: str) -> ResultTooLarge:
        return ResultTooLarge(
            f"the answer has {size}: too much for one result",
            max_bytes=self._max_result_bytes,
        )


def _speakable(line: bytearray) -> bytes | bytearray:
    """Return what may be shown of an unreadable line: nothing of what looks like an answer."""
    looks_like_json = line.lstrip().startswith(b"{")
    return b"[unreadable JSON, %d bytes]" % len(line) if looks_like_json else line


def _encode_message(method: str, params: dict[str, Any], **envelope: Any) -> bytes:
    return _encode({"jsonrpc": "2.0", **envelope, "method": method, "params": params})


def _params_of(message: dict[str, Any]) -> dict[str, Any]:
    params = message.get("params")
    return params if isinstance(params, dict) else {}
