"""Whose answer is whose, over one channel: what the official SDK's methods stand on.

The SDK's own dispatcher stands on streams, scopes and models, which cost as much as a call does.
Knows messages as they were read, and bytes to say; knows nothing of what methods do.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from functools import cached_property
from typing import Any

import anyio
from anyio.abc import TaskStatus
from mcp.shared.dispatcher import CallOptions, Dispatcher, OnNotify, OnNotifyIntercept, OnRequest
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import (
    cancelled_request_id_from_params,
    handler_exception_to_error_data,
    progress_token_from_params,
)
from mcp.shared.message import MessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR

from exai.core.mcp_words import (
    CANCELLED,
    INITIALIZE,
    INVALID_REQUEST,
    PROGRESS,
    PROGRESS_TOKEN,
    Era,
)
from exai.core.message_ids import Id
from exai.protocols.mcp_eras import check_era
from exai.protocols.mcp_messages import (
    McpError,
    McpNotification,
    McpRequest,
    McpResponse,
    encode_error,
    encode_notification,
    encode_request,
    encode_result,
)
from exai.transports.mcp_reading import McpMessage

_log = logging.getLogger(__name__)


class ChannelDispatcher(Dispatcher[TransportContext]):
    """Serves the requests of one era that come, each in a task of its own, and asks in turn.

    `take_back` hears the id of a request that is cancelled, before its task is; `note_answered`
    is told when a message is done with.
    """

    def __init__(
        self,
        incoming: AsyncIterator[McpMessage],
        say: Callable[[bytes], None],
        era: Era,
        *,
        max_requests: int,
        take_back: Callable[[Id], None],
        note_answered: Callable[[], None],
    ) -> None:
        self._incoming = incoming
        self._say = say
        self._era = era
        self._transport = TransportContext(kind="channel", can_send_request=era is Era.HANDSHAKE)
        self._max_requests = max_requests
        self._take_back = take_back
        self._note_answered = note_answered
        self._ids = itertools.count(1)
        self._asked: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._serving: dict[str, asyncio.Task[None]] = {}
        self._tasks: dict[asyncio.Task[None], McpRequest | McpNotification] = {}

    @property
    def owes_answers(self) -> bool:
        """Tell whether any request is not answered yet."""
        return any(isinstance(message, McpRequest) for message in self._tasks.values())

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until there are no more messages; what is not answered then is cancelled."""
        task_status.started()
        try:
            async with asyncio.TaskGroup() as tasks:
                async for message in self._incoming:
                    match message:
                        case McpRequest() if (refusal := self._refusal_of(message)) is not None:
                            self._say(encode_error(message.id, refusal))
                        case McpRequest():
                            task = tasks.create_task(self._serve(message, on_request))
                            self._serving[str(message.id)] = task
                            self._attend(task, message)
                            if message.method == INITIALIZE:
                                await asyncio.wait([task])
                        case McpNotification():
                            self._cancel_if_told(message)
                            task = tasks.create_task(self._hear(message, on_notify))
                            self._attend(task, message)
                        case McpResponse():
                            self._resolve(message)
                for task in self._tasks:
                    task.cancel()
        finally:
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(MCPError(CONNECTION_CLOSED, "Connection closed"))

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        """Tell the peer something."""
        self._say(encode_notification(method, dict(params or {})))

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask the peer, and return its result. Raises `MCPError`."""
        id_ = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked[str(id_)] = answer
        self._say(encode_request(id_, method, dict(params or {})))
        try:
            return await answer
        except asyncio.CancelledError:
            self._say(encode_notification(CANCELLED, {"requestId": id_}))
            raise
        finally:
            del self._asked[str(id_)]

    async def _serve(self, request: McpRequest, on_request: OnRequest) -> None:
        id_, method, params = request
        exchange = _Exchange(self, self._transport, id_, params)
        try:
            check_era(request, self._era)
            answer = encode_result(id_, await on_request(exchange, method, params))
        except Exception as error:  # noqa: BLE001 - a connection outlives what a method raises
            answer = encode_error(id_, _as_fault(method, error))
        finally:
            exchange.is_open = False
        self._say(answer)

    async def _hear(self, message: McpNotification, on_notify: OnNotify) -> None:
        exchange = _Exchange(self, self._transport, None, message.params)
        await on_notify(exchange, message.method, message.params)

    def _refusal_of(self, request: McpRequest) -> McpError | None:
        if str(request.id) in self._serving:
            return McpError(INVALID_REQUEST, f"a request with the id {request.id!r} is under way")
        if len(self._serving) < self._max_requests:
            return None
        return McpError(
            INTERNAL_ERROR,
            f"{self._max_requests} requests of this connection are under way, and no more may be "
            "(limits.mcp_max_requests)",
        )

    def _attend(self, task: asyncio.Task[None], message: McpRequest | McpNotification) -> None:
        """Know a task until it is done, which may be before it has begun."""
        self._tasks[task] = message
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        message = self._tasks.pop(task)
        if isinstance(message, McpRequest) and self._serving.get(str(message.id)) is task:
            del self._serving[str(message.id)]
        self._note_answered()

    def _cancel_if_told(self, message: McpNotification) -> None:
        """Cancel a request, which is not answered then."""
        id_ = cancelled_request_id_from_params(message.params)
        if message.method == CANCELLED and id_ is not None:
            self._take_back(id_)
            task = self._serving.get(str(id_))
            if task is not None:
                task.cancel()

    def _resolve(self, response: McpResponse) -> None:
        answer = self._asked.get(str(response.id))
        if answer is None or answer.done():
            return
        if response.result is not None:
            answer.set_result(response.result)
        else:
            answer.set_exception(_as_raised(response.error or {}))


class _Exchange:
    """One message of the peer, and what may be said about it while it is served.

    A `DispatchContext` in all but its base, which would not let its properties be set.
    """

    message_metadata: MessageMetadata = None

    def __init__(
        self,
        dispatcher: ChannelDispatcher,
        transport: TransportContext,
        request_id: Id | None,
        params: dict[str, Any],
    ) -> None:
        self.transport = transport
        self.request_id = request_id
        self.is_open = True
        self._dispatcher = dispatcher
        self._params = params

    @property
    def can_send_request(self) -> bool:
        return self.is_open and self.transport.can_send_request

    @cached_property
    def cancel_requested(self) -> anyio.Event:
        """Never set: whoever serves a request that is cancelled is cancelled."""
        return anyio.Event()

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        if self.is_open:
            await self._dispatcher.notify(method, params, opts)

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        if not self.can_send_request:
            raise NoBackChannelError(method)
        return await self._dispatcher.send_raw_request(method, params, opts)

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        token = progress_token_from_params(self._params)
        if token is not None:
            said = {"progress": progress, "total": total, "message": message}
            told = {key: value for key, value in said.items() if value is not None}
            await self.notify(PROGRESS, {PROGRESS_TOKEN: token, **told})


def _as_fault(method: str, error: Exception) -> McpError:
    """Return what is answered where a method raises; what it should not raise is a defect."""
    if isinstance(error, McpError):
        return error
    known = handler_exception_to_error_data(error)
    if known is not None:
        return McpError(known.code, known.message, known.data)
    _log.error("%s raised", method, exc_info=error)
    return McpError(INTERNAL_ERROR, "Internal server error")


def _as_raised(error: dict[str, Any]) -> MCPError:
    """Return what a client answered; one that answered nothing usable has failed, too."""
    code, message = error.get("code"), error.get("message")
    if isinstance(code, int) and isinstance(message, str):
        return MCPError(code, message, error.get("data"))
    return MCPError(INTERNAL_ERROR, "the client's answer has no result")
