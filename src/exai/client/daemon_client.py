"""The other end of the wire: one session with a daemon, from hello to bye.

Knows the client's side of `exai.v1` (`docs/protocol.md`): one task reads, and hands
each frame to the call that waits for it. Knows nothing of configuration or terminals.
"""

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from exai.core.addresses import canonical_host, is_loopback

UNAUTHORIZED = 4003
_OPEN_TIMEOUT_S = 10.0
_HELLO_TIMEOUT_S = 15.0
_CLOSE_TIMEOUT_S = 2.0
_CANCEL_TIMEOUT_S = 5.0

CacheUse = Literal["use", "refresh", "off"]
Frame = dict[str, Any]


class ClientError(Exception):
    """Root of what a client raises."""


class DaemonUnreachable(ClientError):
    """Nobody answers at this address, or it is no EXAI daemon."""


class HelloRefused(ClientError):
    """The daemon does not let us in; `code` is the close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason or f"closed with code {code}")
        self.code = code


class ConnectionLost(ClientError):
    """The connection ended before the answer came."""


class ProtocolBroken(ConnectionLost):
    """What answers does not speak `exai.v1`."""


class RequestRefused(ClientError):
    """The daemon refused a request that is no call; `code` is its error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CallError(msgspec.Struct, frozen=True):
    """Why a call failed. Any code is taken: a newer daemon may know more of them."""

    code: str
    message: str
    retryable: bool = False
    retry_after_s: float | None = None
    details: dict[str, Any] = {}


class CallResult(msgspec.Struct, frozen=True):
    """A call's one answer. `accepted` tells a failure of the call from a refusal of it."""

    frame: Frame
    """The terminal frame as it came."""
    accepted: bool
    ok: bool
    text: str = ""
    outputs: list[dict[str, Any]] = []
    structured: dict[str, Any] | None = None
    error: CallError | None = None


class Progress(msgspec.Struct, frozen=True):
    """What a running call says. `delta` is output text from `offset` of `attempt` on."""

    message: str | None = None
    level: str | None = None
    progress: float | None = None
    total: float | None = None
    delta: str | None = None
    offset: int = 0
    attempt: int = 1


OnProgress = Callable[[Progress], None]
_Inbox = asyncio.Queue[Frame | ConnectionLost]
"""What one waiting task is told: its frames, or that no more will come."""


class DaemonClient:
    """A session with the daemon at `url`, open while the context is.

    Entering raises `DaemonUnreachable`, `HelloRefused` or `ProtocolBroken`; every method
    raises `ConnectionLost` once the connection has ended. Calls may run side by side.
    """

    session: Frame
    """The daemon's `hello_ack`."""

    def __init__(self, url: str, *, token: str | None = None, client_name: str = "exai") -> None:
        self._url = url
        self._token = token
        self._client_name = client_name
        self._connection: ClientConnection
        self._tasks: asyncio.TaskGroup
        self._inboxes: dict[str, _Inbox] = {}
        self._lost: ConnectionLost | None = None

    async def __aenter__(self) -> Self:
        """Connect, say hello, and start to read."""
        self._connection = await _open(self._url)
        try:
            self.session = await self._say_hello()
            self._tasks = await asyncio.TaskGroup().__aenter__()
            self._tasks.create_task(self._read())
        except BaseException:
            await self._connection.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the session: what still runs in it is taken back."""
        with suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._connection.send('{"op":"bye"}')
        await self._connection.close()
        await self._tasks.__aexit__(None, None, None)

    async def call(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        cache: CacheUse = "use",
        request_id: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> CallResult:
        """Call a tool and return its one answer, whatever it is.

        When the waiting task is cancelled, or `on_progress` raises, the call is taken
        back: the daemon is told, and its answer waited for, for a few seconds.
        """
        request_id = request_id or _new_request_id()
        request = {
            "op": "call_tool",
            "request_id": request_id,
            "name": name,
            "arguments": arguments or {},
            "cache": cache,
            "timeout_s": timeout_s,
        }
        inbox = self._open_inbox(request_id)
        try:
            await self._send(request)
            return await _follow(inbox, on_progress)
        except BaseException:
            await self._take_back(request_id, inbox)
            raise
        finally:
            del self._inboxes[request_id]

    async def cancel(self, request_id: str, reason: str | None = None) -> None:
        """Take back a call that another task waits for; the answer reaches that task."""
        await self._send({"op": "cancel_tool", "request_id": request_id, "reason": reason})

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools that this identity may use. Raises `RequestRefused`."""
        answer = await self._ask("list_tools", _new_request_id())
        tools: list[dict[str, Any]] = answer.get("tools", [])
        return tools

    async def health(self) -> dict[str, Any]:
        """Return the daemon's health. Raises `RequestRefused`."""
        answer = await self._ask("health", _new_request_id())
        health: dict[str, Any] = answer.get("health", {})
        return health

    async def _ask(self, op: str, request_id: str) -> Frame:
        inbox = self._open_inbox(request_id)
        try:
            await self._send({"op": op, "request_id": request_id})
            answer = await _next(inbox)
        finally:
            del self._inboxes[request_id]
        if answer.get("op") == "error":
            error = _read_as(CallError, answer.get("error"))
            raise RequestRefused(error.code, error.message)
        return answer

    async def _say_hello(self) -> Frame:
        hello: Frame = {"op": "hello", "client": {"name": self._client_name}}
        if self._token is not None:
            hello["token"] = self._token
        try:
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                await self._connection.send(msgspec.json.encode(hello), text=True)
                answer = _decode(await self._connection.recv(decode=False))
                if answer.get("op") != "hello_ack":
                    raise ProtocolBroken(f"{self._url} is no EXAI daemon")
                if answer.get("ok") is not True:
                    await self._connection.recv()
        except TimeoutError:
            raise DaemonUnreachable(f"{self._url} does not answer our hello") from None
        except ConnectionClosed as closed:
            frame = closed.rcvd
            raise HelloRefused(
                frame.code if frame else 1006, frame.reason if frame else "connection lost"
            ) from None
        return answer

    def _open_inbox(self, request_id: str) -> _Inbox:
        if self._lost:
            raise self._lost
        if request_id in self._inboxes:
            raise ValueError(f"a call with the request id {request_id!r} is under way")
        inbox: _Inbox = asyncio.Queue()
        self._inboxes[request_id] = inbox
        return inbox

    async def _send(self, message: Frame) -> None:
        given = {name: value for name, value in message.items() if value is not None}
        try:
            await self._connection.send(msgspec.json.encode(given), text=True)
        except ConnectionClosed as closed:
            raise _lost(closed) from None

    async def _read(self) -> None:
        """Hand every frame to who waits for it, until the connection ends; then tell all."""
        try:
            while True:
                self._hand_over(_decode(await self._connection.recv(decode=False)))
        except ConnectionClosed as closed:
            self._lost = _lost(closed)
        except ProtocolBroken as broken:
            self._lost = broken
        for inbox in self._inboxes.values():
            inbox.put_nowait(self._lost)

    def _hand_over(self, frame: Frame) -> None:
        """Frames of calls that nobody waits for any more, and of news, are dropped."""
        request_id = frame.get("request_id")
        if frame.get("op") == "error" and request_id is None:
            raise ProtocolBroken(f"the daemon cannot read what we sent: {frame.get('error')}")
        if isinstance(request_id, str) and (inbox := self._inboxes.get(request_id)):
            inbox.put_nowait(frame)

    async def _take_back(self, request_id: str, inbox: _Inbox) -> None:
        if self._lost:
            return
        with suppress(ConnectionLost, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                await self.cancel(request_id)
                await _follow(inbox, None)


class _Connect(connect):
    """A redirect would send the token, which the hello holds, to whom it names."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _open(url: str) -> ClientConnection:
    try:
        return await _Connect(
            url,
            open_timeout=_OPEN_TIMEOUT_S,
            close_timeout=_CLOSE_TIMEOUT_S,
            compression=None,
            max_size=None,  # the daemon bounds its results, in a way that the operator chooses
            proxy=None if _is_this_machine(url) else True,
        )
    except InvalidStatus as refusal:
        raise DaemonUnreachable(
            f"{url} answers with HTTP {refusal.response.status_code}"
        ) from refusal
    except (OSError, ValueError, WebSocketException) as error:
        raise DaemonUnreachable(f"nobody answers at {url}: {error}") from error


def _is_this_machine(url: str) -> bool:
    return is_loopback(canonical_host(urlsplit(url).hostname or ""))


async def _follow(inbox: _Inbox, on_progress: OnProgress | None) -> CallResult:
    """Read one call's frames up to the terminal one."""
    accepted = False
    while True:
        frame = await _next(inbox)
        match frame.get("op"):
            case "call_tool_ack":
                accepted = True
            case "progress" if on_progress:
                on_progress(_read_as(Progress, frame))
            case "call_tool_res":
                return _read_as(CallResult, {**frame, "frame": frame, "accepted": accepted})


async def _next(inbox: _Inbox) -> Frame:
    frame = await inbox.get()
    if isinstance(frame, ConnectionLost):
        raise frame
    return frame


def _decode(message: bytes) -> Frame:
    try:
        return msgspec.json.decode(message, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ProtocolBroken("what answers is no EXAI daemon: it sends no JSON objects") from None


_T = TypeVar("_T", bound=msgspec.Struct)


def _read_as(kind: type[_T], frame: Any) -> _T:
    try:
        return msgspec.convert(frame, kind)
    except msgspec.ValidationError as error:
        raise ProtocolBroken(f"the daemon sent a frame that is none of exai.v1: {error}") from None


def _lost(closed: ConnectionClosed) -> ConnectionLost:
    frame = closed.rcvd
    why = f": {frame.code} {frame.reason}".rstrip() if frame else ""
    return ConnectionLost(f"the connection to the daemon ended before the answer{why}")


def _new_request_id() -> str:
    return secrets.token_hex(8)
