"""The other end of the wire: a session with a daemon that outlives its connections.

The reference client of `exai.v1` (`docs/protocol.md`). A connection that is lost is opened
again, the session resumed, and every call gets its one answer:

    async with DaemonClient("ws://127.0.0.1:8079/", token=token) as client:
        result = await client.call("chat", {"prompt": "Hello"}, on_progress=print)

One task keeps the connection and hands each frame to the call that waits for it. Knows
nothing of configuration or terminals.
"""

import asyncio
import secrets
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

from exai.client.answers import CallError, CallResult, Frame, OnProgress, read_as, size_of
from exai.client.backoff import Backoff
from exai.client.errors import (
    UNAUTHORIZED,
    AnswerLost,
    ClientError,
    ConnectionLost,
    DaemonUnreachable,
    HelloRefused,
    ProtocolBroken,
    RequestRefused,
    is_final,
)
from exai.client.kept_results import KeptResults
from exai.client.link import CLOSE_TIMEOUT_S, Link, LinkClosed
from exai.client.pending_request import PendingRequest
from exai.core.errors import ErrorCode
from exai.core.lifecycle import running
from exai.core.requests import CacheUse

_CANCEL_TIMEOUT_S = 5.0
_STABLE_S = 5.0

OnConnection = Callable[[str], object]
"""Told in words what becomes of the connection: lost and why, or back."""

OnNews = Callable[[Frame], object]
"""Told of each frame that answers nobody, as `tools_changed`, and of the `hello_ack` of every
connection after the first. It must not raise."""


class DaemonClient:
    """A session with the daemon at `url`, open while the context is.

    Entering raises `DaemonUnreachable`, `HelloRefused` or `ProtocolBroken`. Afterwards a
    lost connection is opened again for `patience_s` (by default as long as the daemon
    keeps a session); only then, and where the daemon forbids it, methods raise
    `ConnectionLost`. Calls may run side by side. `tls` judges the certificate behind a
    `wss://` address; without it the system's authorities do.
    """

    session: Frame
    """The daemon's latest `hello_ack`; empty before the first."""

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        client_name: str = "exai",
        patience_s: float | None = None,
        ping_interval_s: float = 20.0,
        backoff: Backoff | None = None,
        on_connection: OnConnection | None = None,
        on_news: OnNews | None = None,
        keep_keyed: int = 0,
    ) -> None:
        self._url = url
        self._hello: Frame = {
            "op": "hello",
            "token": token,
            "acks": True,
            "client": {"name": client_name},
        }
        self._next_token: str | None = None
        self._tls = tls
        self._patience_s = patience_s
        self._ping_interval_s = ping_interval_s
        self._backoff = backoff or Backoff()
        self._tell = on_connection or (lambda words: None)
        self._tell_news = on_news or (lambda frame: None)
        self.session = {}
        self._link: Link | None = None
        self._is_connected = asyncio.Event()
        self._has_ended = asyncio.Event()
        self._stack = AsyncExitStack()
        self._requests: dict[str, PendingRequest] = {}
        self._kept = KeptResults(keep_keyed)
        self._end: ConnectionLost | None = ConnectionLost("the session was not opened")

    async def __aenter__(self) -> Self:
        """Connect, say hello, and start to read."""
        link = await self._open()
        self._use(link)
        self._end = None
        self._is_connected.set()
        await self._stack.enter_async_context(running(self._keep_connected(link)))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the session: what still runs in it is taken back."""
        link, self._link = self._link, None
        if link is not None:
            with suppress(LinkClosed, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await link.send({"op": "bye"})
        await self._stack.aclose()

    async def call(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
        cache: CacheUse = "use",
        request_id: str | None = None,
        idempotency_key: str | None = None,
        traceparent: str | None = None,
        meta: dict[str, Any] | None = None,
        input: dict[str, Any] | None = None,
        on_progress: OnProgress | None = None,
    ) -> CallResult:
        """Call a tool and return its one answer, whatever it is.

        `meta` goes along to an MCP server; `input` answers the `input_required` of an earlier
        call.

        The call survives lost connections. Where also its session is gone it is sent again
        under its `idempotency_key`, if it has one and the daemon still knows of it; else
        `AnswerLost` is raised. When the waiting task is cancelled, or `on_progress`
        raises, the call is taken back: the daemon is told, and its answer waited for, for a
        few seconds. Raises `RequestTooLarge`, and `ValueError` for a `request_id` that is none
        or is that of a call under way.
        """
        request = PendingRequest(
            "call_tool",
            request_id or _new_request_id(),
            name=name,
            arguments=arguments or {},
            cache=cache,
            timeout_s=timeout_s,
            idempotency_key=idempotency_key,
            traceparent=traceparent,
            meta=meta or None,
            input=input or None,
        )
        self._register(request)
        try:
            await self._send(request)
            return await request.follow(on_progress)
        except ClientError:
            raise
        except BaseException:
            await self._take_back(request)
            raise
        finally:
            del self._requests[request.request_id]

    async def cancel(self, request_id: str, reason: str | None = None) -> None:
        """Take back a call that another task waits for; the answer reaches that task."""
        request = self._requests.get(request_id)
        if request is not None:
            request.is_withdrawn = True
            await self._say({"op": "cancel_tool", "request_id": request_id, "reason": reason})

    async def wait_connected(self) -> None:
        """Wait until there is a connection. Raises `ConnectionLost` when there will be none."""
        await self._is_connected.wait()
        if self._end is not None:
            raise self._end

    async def wait_ended(self) -> ConnectionLost:
        """Wait until the session is over, and return why."""
        await self._has_ended.wait()
        assert self._end is not None
        return self._end

    async def list_tools(self) -> list[dict[str, Any]]:
        """Return the tools that this identity may use. Raises `RequestRefused`."""
        answer = await self._ask("list_tools")
        tools: list[dict[str, Any]] = answer.get("tools", [])
        return tools

    async def health(self) -> dict[str, Any]:
        """Return the daemon's health. Raises `RequestRefused`."""
        answer = await self._ask("health")
        health: dict[str, Any] = answer.get("health", {})
        return health

    async def rotate_token(
        self, new: str, *, grace_s: float = 0.0, revoke_sessions: bool = False
    ) -> None:
        """Replace the token that this session says hello with.

        Raises `RequestRefused` with the protocol's word.
        """
        self._next_token = new
        try:
            answer = await self._ask(
                "rotate_token",
                old=self._hello["token"],
                new=new,
                grace_s=grace_s,
                revoke_sessions=revoke_sessions,
            )
        finally:
            self._next_token = None
        if answer.get("ok") is not True:
            word = str(answer.get("error"))
            raise RequestRefused(word, f"the daemon does not replace the token: {word}")
        self._hello["token"] = new

    async def _ask(self, op: str, **fields: Any) -> Frame:
        request = PendingRequest(op, _new_request_id(), **fields)
        self._register(request)
        try:
            await self._send(request)
            answer = await request.next()
        finally:
            del self._requests[request.request_id]
        if answer.get("op") == "error":
            error = read_as(CallError, answer.get("error"))
            raise RequestRefused(error.code, error.message)
        return answer

    def _register(self, request: PendingRequest) -> None:
        if self._end is not None:
            raise self._end
        if request.request_id in self._requests:
            raise ValueError(f"a call with the request id {request.request_id!r} is under way")
        request.check(self.session.get("limits", {}).get("max_message_bytes"))
        self._requests[request.request_id] = request

    async def _send(self, request: PendingRequest) -> None:
        """Send a request over the present connection, once; without one it is sent later.

        So is a call where the daemon is about to go: it would be refused.
        """
        link = self._link
        if link is None or request.link is link or (request.is_call and link.goes_away):
            return
        request.link = link
        with suppress(LinkClosed):
            await link.send_encoded(request.encoded)

    async def _say(self, message: Frame) -> None:
        """Send what has no answer of its own, if there is a connection."""
        if self._link is not None:
            with suppress(LinkClosed):
                await self._link.send(message)

    async def _keep_connected(self, link: Link) -> None:
        """Read, and come back when the connection is lost; tell all who wait if for good."""
        loop = asyncio.get_running_loop()
        end = ConnectionLost("the session was closed")
        tries = 0
        try:
            while True:
                opened_at = loop.time()
                lost = await self._read_to_end(link)
                self._link = None
                self._is_connected.clear()
                tries = 0 if loop.time() - opened_at >= _STABLE_S else tries + 1
                link = await self._open_again(tries, lost)
                self._is_connected.set()
                self._tell("connected again")
                self._tell_news(link.ack)
        except ConnectionLost as lost_for_good:
            end = lost_for_good
        finally:
            self._end, self._link = end, None
            self._has_ended.set()
            self._is_connected.set()  # whoever waits for a connection waits no more
            for request in self._requests.values():
                request.inbox.put_nowait(end)
            await link.close()

    async def _read_to_end(self, link: Link) -> LinkClosed:
        """Hand every frame to who waits for it, until the connection ends."""
        try:
            while True:
                await self._hand_over(await link.receive())
        except LinkClosed as closed:
            return closed

    async def _open_again(self, tries: int, lost: LinkClosed) -> Link:
        """Connect and resume the session. Raises `ConnectionLost` when it is time to give up."""
        if is_final(lost.code):
            raise ConnectionLost(f"the daemon ended the session: {lost}")
        loop = asyncio.get_running_loop()
        patience_s = self._patience_s
        if patience_s is None:
            patience_s = self.session.get("limits", {}).get("resume_window_s", 0.0)
        gives_up_at = loop.time() + patience_s
        self._tell(f"connection lost ({lost}); connecting again")
        while True:
            try:
                async with asyncio.timeout_at(gives_up_at):
                    await asyncio.sleep(self._backoff.pause_s(tries))
                    return await self._open_and_resume()
            except HelloRefused as refused:
                if refused.code == UNAUTHORIZED and self._next_token is not None:
                    # The connection was lost between our rotation and its answer.
                    self._hello["token"], self._next_token = self._next_token, None
                elif is_final(refused.code):
                    raise ConnectionLost(f"the daemon lets us in no more: {refused}") from refused
            except (DaemonUnreachable, LinkClosed):
                pass
            except TimeoutError:
                raise ConnectionLost(
                    f"the connection to the daemon ended ({lost}), and nobody answered for "
                    f"{patience_s:g} s"
                ) from None
            tries += 1

    async def _open_and_resume(self) -> Link:
        link = await self._open()
        try:
            self._use(link)
            await self._resume(link)
        except BaseException:
            self._link = None
            await link.close()
            raise
        return link

    async def _open(self) -> Link:
        hello: Frame = dict(self._hello)
        if self.session:
            hello["resume"] = {
                "session_id": self.session.get("session_id"),
                "resume_token": self.session.get("resume_token"),
            }
        return await Link.open(
            self._url, hello, tls=self._tls, ping_interval_s=self._ping_interval_s
        )

    def _use(self, link: Link) -> None:
        """Speak over this connection from now on."""
        before, self.session, self._link = self.session, link.ack, link
        if before and not link.ack.get("resumed"):
            self._kept.clear()
            self._give_up_what_is_lost(before)

    def _give_up_what_is_lost(self, before: Frame) -> None:
        """In a fresh session, let go of the calls that must not be sent again."""
        is_same_ledger = _ledger(before) == _ledger(self.session)
        for request in self._requests.values():
            is_safe = request.has_key and is_same_ledger
            if request.is_call and request.link is not None and not is_safe:
                what = "has run" if request.is_accepted else "was accepted"
                request.link = self._link
                request.inbox.put_nowait(
                    AnswerLost(
                        f"the daemon has lost our session: nobody knows whether the call {what}"
                    )
                )

    async def _resume(self, link: Link) -> None:
        """Send again what the daemon does not know of. Raises `LinkClosed`."""
        pending = set(link.ack.get("pending") or ()) if link.ack.get("resumed") else set()
        for request_id, request in list(self._requests.items()):
            if request_id in pending:
                request.link = link
            await self._send(request)
            if request.is_withdrawn:
                await link.send({"op": "cancel_tool", "request_id": request_id})

    async def _hand_over(self, frame: Frame) -> None:
        """Frames of calls that nobody waits for any more are dropped."""
        request_id, op = frame.get("request_id"), frame.get("op")
        if op == "error" and request_id is None:
            raise ProtocolBroken(f"the daemon cannot read what we sent: {frame.get('error')}")
        if op == "going_away" and self._link is not None:
            self._link.goes_away = True
        if not isinstance(request_id, str):
            self._tell_news(frame)
            return
        request = self._requests.get(request_id)
        if request is not None and self._comes_too_late(request, frame):
            request.link = None
        elif request is not None:
            request.is_accepted = request.is_accepted or op in ("call_tool_ack", "progress")
            request.inbox.put_nowait(frame)
        if op == "call_tool_res" and "meta" in frame and not self._kept.has(request_id):
            has_key = request is not None and request.has_key
            acked = self._kept.add(request_id, size_of(frame)) if has_key else [request_id]
            if acked:
                await self._say({"op": "ack", "request_ids": acked})

    def _comes_too_late(self, request: PendingRequest, answer: Frame) -> bool:
        """Tell whether a daemon that goes away has not taken a call: the next one will."""
        code = (answer.get("error") or {}).get("code")
        is_refused = code == ErrorCode.SERVICE_UNAVAILABLE and "meta" not in answer
        goes_away = self._link is not None and self._link.goes_away
        return request.is_call and goes_away and is_refused and not request.is_accepted

    async def _take_back(self, request: PendingRequest) -> None:
        with suppress(ClientError, TimeoutError):
            async with asyncio.timeout(_CANCEL_TIMEOUT_S):
                await self.cancel(request.request_id)
                await request.follow(None)


def _ledger(session: Frame) -> Any:
    """Return what names the place where the daemon remembers calls; older ones do not say."""
    server = session.get("server", {})
    return server.get("ledger") or server.get("instance")


def _new_request_id() -> str:
    return secrets.token_hex(8)
