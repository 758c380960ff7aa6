"""The MCP server that a bridge is to the program that started it.

Knows which request means what, and who waits for an answer; knows no streams, and of the
daemon only its session.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NamedTuple

from exai.cli.bridge_session import BridgeSession, CallFailed
from exai.cli.bridge_subscriptions import Subscriptions
from exai.cli.bridge_tools import KnownTools
from exai.client.answers import CallResult, Progress
from exai.core import mcp_words
from exai.core.errors import ErrorCode
from exai.core.mcp_words import (
    CALL_TOOL,
    DISCOVER,
    INITIALIZE,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LIST_TOOLS,
    LISTEN,
    LISTEN_ACKNOWLEDGED,
    PARSE_ERROR,
    PING,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Era,
)
from exai.core.message_ids import Id, find_id
from exai.core.tool import LOG_LEVELS
from exai.protocols.mcp_calls import (
    Answer,
    method_result,
    read_method_call,
    read_tool_call,
    tool_result,
)
from exai.protocols.mcp_eras import (
    ServerInfo,
    check_era,
    discover_result,
    era_of_first,
    finish_result,
    initialize_result,
    meta_of,
)
from exai.protocols.mcp_logging import read_level
from exai.protocols.mcp_messages import (
    McpError,
    McpNotification,
    McpRequest,
    McpResponse,
    NotAMessage,
    encode_error,
    encode_notification,
    encode_result,
    read_message,
)
from exai.protocols.mcp_news import News, read_listen
from exai.protocols.mcp_notifications import CallNotifications
from exai.protocols.mcp_results import Result, failed_result, method_error, tools_result
from exai.upstream.line_splitter import Overlong
from exai.upstream.messages import TooIntricate, Unreadable, decode_message

_MAX_IN_FLIGHT = 1000


class Wire(NamedTuple):
    """How messages leave: always, or only where the other side reads."""

    write: Callable[[bytes], object]
    is_full: Callable[[], bool]
    wait_room: Callable[[], Awaitable[None]]


class BridgeServer:
    """Answers one client, whichever era it speaks."""

    def __init__(
        self,
        wire: Wire,
        session: BridgeSession,
        tools: KnownTools,
        subscriptions: Subscriptions,
        tasks: asyncio.TaskGroup,
        info: ServerInfo,
    ) -> None:
        self._wire = wire
        self._session = session
        self._tools = tools
        self._subscriptions = subscriptions
        self._tasks = tasks
        self._info = info
        self._era: Era | None = None
        self._log_level: str = LOG_LEVELS[0]
        self._in_flight: dict[Id, asyncio.Task[None]] = {}
        self._late_news: dict[News, None] = {}
        self._has_late_news = asyncio.Event()
        self._at_once: dict[str, Callable[[McpRequest], Result]] = {
            INITIALIZE: lambda request: initialize_result(request.params, info),
            DISCOVER: lambda request: discover_result(),
            PING: lambda request: {},
            SET_LEVEL: self._set_level,
        }
        self._in_time: dict[str, Callable[[McpRequest], Awaitable[Result]]] = {
            LIST_TOOLS: self._list_tools,
            CALL_TOOL: self._call_tool,
            LISTEN: self._listen,
            SUBSCRIBE: self._subscribe,
            UNSUBSCRIBE: self._unsubscribe,
        }

    async def handle_line(self, line: bytes | bytearray | Overlong) -> None:
        """Do what a line asks, or see to it that it is done."""
        try:
            message = await _decode(line)
            if message is not None:
                self._handle(message)
        except NotAMessage as fault:
            self._wire.write(encode_error(fault.id, fault))

    def tell(self, news: News) -> None:
        """Tell the client what it wants to hear.

        Where it does not read for a while, it is told once only, and of no parts: there is no end
        to those.
        """
        if self._wire.is_full():
            self._late_news.update(dict.fromkeys(self._subscriptions.wholes(news)))
            self._has_late_news.set()
            return
        if self._era is Era.HANDSHAKE and self._subscriptions.may_hear(news):
            self._wire.write(encode_notification(news.method, news.params()))
        for id_ in self._subscriptions.listeners(news):
            self._wire.write(encode_notification(news.method, news.params(id_)))

    async def run(self) -> None:
        """Tell late what could not be told."""
        while True:
            await self._has_late_news.wait()
            await self._wire.wait_room()
            self._has_late_news.clear()
            late, self._late_news = self._late_news, {}
            for news in late:
                self.tell(news)

    def _handle(self, message: McpRequest | McpNotification | McpResponse) -> None:
        match message:
            case McpRequest():
                self._answer(message)
            case McpNotification(mcp_words.CANCELLED, params):
                self._cancel(params.get("requestId"))
            case _:
                pass  # we ask nothing, and of other notifications nothing follows

    def _answer(self, request: McpRequest) -> None:
        try:
            self._admit(request)
            if answer := self._at_once.get(request.method):
                self._write_result(request, answer(request))
                return
        except McpError as fault:
            self._wire.write(encode_error(request.id, fault))
            return
        task = self._tasks.create_task(self._answer_in_time(request))
        self._in_flight[request.id] = task
        task.add_done_callback(lambda ended: self._forget(request.id, ended))

    def _admit(self, request: McpRequest) -> None:
        """Raise `McpError` for a request that is not to be answered otherwise."""
        era = self._era or era_of_first(request)
        check_era(request, era)
        self._era = era
        if request.id in self._in_flight:
            raise McpError(INVALID_REQUEST, f"a request with the id {request.id!r} is under way")

    async def _answer_in_time(self, request: McpRequest) -> None:
        try:
            self._check_capacity()
            handle = self._in_time.get(request.method, self._call_method)
            self._write_result(request, await handle(request))
        except McpError as fault:
            self._wire.write(encode_error(request.id, fault))
        except CallFailed as failure:
            if request.method == CALL_TOOL:
                result = failed_result(
                    failure.error, has_output_schema=self._has_output_schema(request)
                )
                self._write_result(request, result)
            else:
                assert self._era is not None
                error = method_error(request.method, failure.error, self._era)
                self._wire.write(encode_error(request.id, error))

    def _check_capacity(self) -> None:
        if len(self._in_flight) > _MAX_IN_FLIGHT:
            raise CallFailed(
                ErrorCode.OVER_CAPACITY,
                f"more than {_MAX_IN_FLIGHT:,} requests of this client are under way",
                retryable=True,
            )

    def _write_result(self, request: McpRequest, result: Result) -> None:
        assert self._era is not None
        finished = finish_result(request.method, result, self._era, self._info)
        self._wire.write(encode_result(request.id, finished))

    def _forget(self, id_: Id, task: asyncio.Task[None]) -> None:
        if self._in_flight.get(id_) is task:
            del self._in_flight[id_]

    def _cancel(self, id_: Any) -> None:
        """Take back a request; its id is free at once, and nothing more is said of it."""
        if not isinstance(id_, (int, str)) or isinstance(id_, bool):
            return
        task = self._in_flight.pop(id_, None)
        if task is None and isinstance(id_, str) and id_.isdecimal():
            task = self._in_flight.pop(int(id_), None)  # some clients write it as a text here
        if task is not None:
            task.cancel()

    def _set_level(self, request: McpRequest) -> Result:
        self._log_level = read_level(request.params)
        self._subscriptions.set_level(self._log_level)
        return {}

    async def _list_tools(self, request: McpRequest) -> Result:
        if request.params.get("cursor") is not None:
            raise McpError(INVALID_PARAMS, "the list of tools has one page, and no cursor")
        assert self._era is not None
        return tools_result(self._tools.tools or await self._tools.wait(), self._era)

    async def _call_tool(self, request: McpRequest) -> Result:
        call = read_tool_call(request.params)
        result = await self._session.call(call, self._listener(request))
        assert self._era is not None
        has_output_schema = partial(self._has_output_schema, request)
        return tool_result(call, _answer_of(result), self._era, has_output_schema)

    async def _call_method(self, request: McpRequest) -> Result:
        """Have a request that is no tool call answered by the tool that bears its name."""
        assert self._era is not None
        call = read_method_call(request.method, request.params)
        result = await self._session.call(call, self._listener(request))
        return method_result(request.method, _answer_of(result), self._era)

    async def _listen(self, request: McpRequest) -> Result:
        subscription = read_listen(request.id, request.params)
        with self._subscriptions.listening(subscription):
            self._wire.write(
                encode_notification(LISTEN_ACKNOWLEDGED, subscription.acknowledgement())
            )
            await asyncio.Event().wait()  # until the client takes it back
        return subscription.result()

    async def _subscribe(self, request: McpRequest) -> Result:
        result = await self._call_method(request)
        self._subscriptions.add(str(request.params.get("uri")))
        return result

    async def _unsubscribe(self, request: McpRequest) -> Result:
        self._subscriptions.discard(str(request.params.get("uri")))
        return await self._call_method(request)

    def _has_output_schema(self, request: McpRequest) -> bool:
        return self._tools.has_output_schema(str(request.params.get("name")))

    def _listener(self, request: McpRequest) -> Callable[[Progress], None]:
        """Return what tells the client how far its request is, and what the server logs."""
        assert self._era is not None
        clock = asyncio.get_running_loop().time
        notifications = CallNotifications(meta_of(request.params), self._era, clock())

        def hear(said: Progress) -> None:
            if self._wire.is_full():
                return
            told = notifications.told(said, clock(), self._log_level)
            if told is not None:
                self._wire.write(encode_notification(*told))

        return hear


async def _decode(
    line: bytes | bytearray | Overlong,
) -> McpRequest | McpNotification | McpResponse | None:
    """Return what a line says, None where it says nothing. Raises `NotAMessage`."""
    if isinstance(line, Overlong):
        id_ = find_id(line.head, line.tail)
        raise NotAMessage(f"the message has {line.size_bytes:,} bytes, which is too much", id_)
    if not line.strip():
        return None
    if line.lstrip()[:1] == b"[":
        return read_message([])
    try:
        return read_message(await decode_message(line))
    except (Unreadable, TooIntricate) as fault:
        raise NotAMessage(str(fault), find_id(line, line.rstrip()), PARSE_ERROR) from None


def _answer_of(result: CallResult) -> Answer:
    error = None if result.ok else result.frame.get("error")
    if not result.ok and not isinstance(error, dict):
        unknown = "the daemon does not say why"
        error = {"code": ErrorCode.INTERNAL_ERROR.value, "message": unknown}
    return Answer(
        result.outputs, result.structured, result.result_meta, result.input_required, error
    )
