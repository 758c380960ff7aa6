"""A bridge's session with the daemon: there as soon as the daemon is, and again after it.

Knows how calls end where there is no daemon; knows nothing of MCP.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from exai.cli.daemon_door import Door, NoDoor
from exai.client.answers import CallResult, Frame, OnProgress
from exai.client.backoff import Backoff
from exai.client.daemon_client import DaemonClient
from exai.client.errors import (
    UNAUTHORIZED,
    ClientError,
    ConnectionLost,
    DaemonUnreachable,
    HelloRefused,
    RequestTooLarge,
)
from exai.core.errors import ErrorCode
from exai.core.requests import CallTool

_REPEATS = 3
_REPEATED_AT_FIRST_AFTER_S = 0.2
_PATIENCE_WITH_RESTARTS_S = 5.0
_A_LOOK_S = 1.0
_KEPT_RESULTS = 100


class TokenRefused(Exception):
    """The daemon does not know our token; `door` says where it came from."""

    def __init__(self, door: Door) -> None:
        super().__init__(f"the daemon at {door.url} refused the token ({door.token_place})")


class CallFailed(Exception):
    """The call was not made, or its answer is lost; `error` says so as a daemon would."""

    def __init__(self, code: ErrorCode, message: str, *, retryable: bool, **details: Any) -> None:
        super().__init__(message)
        self.error: dict[str, Any] = {
            "code": code.value,
            "message": message,
            "retryable": retryable,
        }
        if details:
            self.error["details"] = details


class Starter(Protocol):
    """What sees to it that there is a daemon."""

    async def start(self) -> None:
        """Start one, unless one runs; return when it can be reached."""


class BridgeSession:
    """The daemon, as long as the bridge lives.

    `find_door` is asked before each session, since a daemon may come back elsewhere. `on_news`
    is told of what the daemon says unasked, and of each `hello_ack`.
    """

    def __init__(
        self,
        find_door: Callable[[], Door],
        starter: Starter | None,
        on_news: Callable[[Frame], object],
        warn: Callable[[str], object],
        patience_s: float,
    ) -> None:
        self._find_door = find_door
        self._starter = starter
        self._on_news = on_news
        self._warn = warn
        self._patience_s = patience_s
        self._backoff = Backoff(longest_s=2.0)
        self._client: DaemonClient | None = None
        self._is_open = asyncio.Event()
        self._silence = "no daemon has answered yet"

    async def run(self) -> None:
        """Keep a session. Ends only by raising `TokenRefused`, or what `starter` raises."""
        tries = 0
        while True:
            await asyncio.sleep(self._backoff.pause_s(tries))
            try:
                await self._live()
            except DaemonUnreachable as error:
                self._say(str(error))
                tries += 1
                if self._starter is not None:
                    await self._starter.start()
            except (ClientError, NoDoor) as error:
                self._say(str(error))
                tries += 1
            else:
                tries = 0

    async def call(self, call: CallTool, on_progress: OnProgress | None = None) -> CallResult:
        """Return the call's one answer, whatever it is; raise `CallFailed` where there is none.

        What was cut off by a daemon's end, and is certain to do no harm twice, is repeated.
        """
        for repeat in range(_REPEATS + 1):
            result = await self._call_once(call, on_progress)
            if repeat == _REPEATS or not _may_repeat(call, result):
                break
            await asyncio.sleep(_REPEATED_AT_FIRST_AFTER_S * 2**repeat)
        return result

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools, once the daemon has started. Raises `ClientError`."""
        client = await self.connected()
        while True:
            status = (await client.health()).get("status")
            if status != "starting":
                return await client.list_tools()
            await asyncio.sleep(_A_LOOK_S / 4)

    async def connected(self) -> DaemonClient:
        """Return the session's client when there is a connection, however long that takes."""
        while True:
            await self._is_open.wait()
            client = self._client
            try:
                assert client is not None
                await client.wait_connected()
            except ConnectionLost:
                await asyncio.sleep(0)  # `run` is about to take note of it
            else:
                return client

    async def _live(self) -> None:
        door = self._find_door()
        client = DaemonClient(
            door.url,
            token=door.token,
            tls=door.tls_context(),
            client_name="exai-bridge",
            on_connection=self._say,
            on_news=self._on_news,
            keep_keyed=_KEPT_RESULTS,
        )
        try:
            async with client:
                await self._live_with(client)
        except HelloRefused as refused:
            if refused.code == UNAUTHORIZED and self._find_door() == door:
                raise TokenRefused(door) from None
            raise

    async def _live_with(self, client: DaemonClient) -> None:
        self._client = client
        self._is_open.set()
        self._on_news(client.session)
        try:
            self._say(f"the session is over: {await self._ended(client)}")
        finally:
            self._is_open.clear()
            self._client = None

    async def _ended(self, client: DaemonClient) -> ConnectionLost:
        """Wait for the session's end; meanwhile start the daemon, if it stays away."""
        if self._starter is None:
            return await client.wait_ended()
        while True:
            try:
                async with asyncio.timeout(_A_LOOK_S):
                    return await client.wait_ended()
            except TimeoutError:
                pass
            try:
                async with asyncio.timeout(_PATIENCE_WITH_RESTARTS_S):
                    await client.wait_connected()
            except ConnectionLost as lost:
                return lost
            except TimeoutError:
                await self._starter.start()

    async def _call_once(self, call: CallTool, on_progress: OnProgress | None) -> CallResult:
        try:
            async with asyncio.timeout(self._patience_s):
                client = await self.connected()
        except TimeoutError:
            raise CallFailed(
                ErrorCode.SERVICE_UNAVAILABLE, f"no daemon: {self._silence}", retryable=True
            ) from None
        try:
            return await client.call(
                call.name,
                call.arguments,
                idempotency_key=call.idempotency_key,
                traceparent=call.traceparent,
                meta=call.meta,
                input=call.input,
                on_progress=on_progress,
            )
        except RequestTooLarge as error:
            raise CallFailed(ErrorCode.INVALID_REQUEST, str(error), retryable=False) from None
        except ConnectionLost as error:
            raise CallFailed(
                ErrorCode.INTERRUPTED, str(error), retryable=False, may_have_run=True
            ) from None

    def _say(self, words: str) -> None:
        if words != self._silence:
            self._warn(words)
        self._silence = words


def _may_repeat(call: CallTool, result: CallResult) -> bool:
    """Tell whether a call that a daemon's end has cut off may be made again as another call."""
    error = result.error
    if error is None or not error.retryable:
        return False
    if error.code == ErrorCode.INTERRUPTED:
        return call.idempotency_key is None  # under its key it is answered as it was
    return error.code == ErrorCode.SERVICE_UNAVAILABLE and not result.accepted
