"""The requests that a server makes of us, answered a few at once.

Knows JSON-RPC's rules for whoever answers; knows nothing of what is asked.
"""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import msgspec

from exai.core.client_side import AskFailed
from exai.core.mcp_words import INVALID_REQUEST, METHOD_NOT_FOUND, PING

_TOO_MANY_REQUESTS = -32000
_MAX_AT_ONCE = 16

OnRequest = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]
"""Given the method and the params of a request of the server, returns its result, or raises
`AskFailed`. It is cancelled where the server takes its request back, or ends."""

_encode = msgspec.json.Encoder().encode


class ServerRequests:
    """The requests under way; as a context, it ends them with itself.

    Without `on_request`, a server is offered nothing but a pulse. `write` may wait, and is
    for answers of any length; `write_nowait` is for short ones.
    """

    def __init__(
        self,
        on_request: OnRequest | None,
        write: Callable[[bytes], Awaitable[object]],
        write_nowait: Callable[[bytes], None],
    ) -> None:
        self._on_request = on_request
        self._write = write
        self._write_nowait = write_nowait
        self._answering = asyncio.TaskGroup()
        self._under_way: dict[str | int, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        await self._answering.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for answering in self._under_way.values():
            answering.cancel()
        await self._answering.__aexit__(kind, error, traceback)

    def take(self, request_id: Any, method: str, params: dict[str, Any]) -> None:
        """Answer a request, or begin to."""
        if method == PING:
            self._write_nowait(_encode_answer(request_id, result={}))
        elif self._on_request is None:
            self._refuse(request_id, METHOD_NOT_FOUND, "Method not found")
        elif not isinstance(request_id, str | int) or request_id in self._under_way:
            self._refuse(request_id, INVALID_REQUEST, "the id is none, or is in use")
        elif len(self._under_way) >= _MAX_AT_ONCE:
            self._refuse(request_id, _TOO_MANY_REQUESTS, "too many requests at once")
        else:
            answering = self._answering.create_task(
                self._answer(request_id, self._on_request, method, params)
            )
            self._under_way[request_id] = answering
            answering.add_done_callback(lambda _: self._under_way.pop(request_id))

    def take_back(self, request_id: Any) -> None:
        """Cancel a request that the server wants no answer to any more."""
        if isinstance(request_id, str | int) and request_id in self._under_way:
            self._under_way[request_id].cancel()

    async def _answer(
        self, request_id: str | int, on_request: OnRequest, method: str, params: dict[str, Any]
    ) -> None:
        try:
            answer = _encode_answer(request_id, result=await on_request(method, params))
        except AskFailed as failed:
            answer = _encode_answer(request_id, error=_error(failed.code, str(failed), failed.data))
        await self._write(answer)

    def _refuse(self, request_id: Any, code: int, message: str) -> None:
        self._write_nowait(_encode_answer(request_id, error=_error(code, message)))


def _encode_answer(request_id: Any, **answer: dict[str, Any]) -> bytes:
    return _encode({"jsonrpc": "2.0", "id": request_id, **answer})


def _error(code: int, message: str, data: Any = None) -> dict[str, Any]:
    return {"code": code, "message": message, **({} if data is None else {"data": data})}
