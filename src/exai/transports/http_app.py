"""The HTTP port: serves the routes that it is handed, behind the rules of both ports.

Knows Starlette and uvicorn; knows nothing of what the routes say.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from exai.core.config import ServerConfig
from exai.transports.listening import BACKLOG, Listener, listening_socket, take_over
from exai.transports.request_headers import headers_of
from exai.transports.upgrade_rules import OriginRules

_FOR_PROBES = 16
"""Connections beside those of MCP clients, so that these cannot make a daemon look dead; uvicorn
refuses the last one.
"""
_MAX_HEADER_BYTES = 32_768
_FIRST_REQUEST_WITHIN_S = 10.0
_LAST_REQUEST_WITHIN_S = 0.2
_METHODS_WITH_BODY = ("POST", "PUT", "PATCH")
_MAX_REST_BYTES = 65_536
_REST_WITHIN_S = 0.5


class HttpServer:
    """Serves HTTP between `open` and `close`; signals and tasks stay the daemon's own."""

    def __init__(
        self,
        config: ServerConfig,
        routes: Sequence[BaseRoute],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._config = config
        self._tls = tls
        self._app = Starlette(
            routes=routes,
            middleware=[
                Middleware(_UnreadBodies),
                Middleware(_OriginGuard, rules=OriginRules(config)),
            ],
            exception_handlers={HTTPException: _say_status, Exception: _say_defect},
        )
        self._app.router.redirect_slashes = False
        self._server = uvicorn.Server(self._uvicorn_config())
        self._listener: Listener | None = None
        self.port = 0

    async def open(self, inherited: socket.socket | None = None) -> None:
        """Begin to serve, on an inherited socket or on the configured address.

        Raises `OSError`.
        """
        self._listener = listening_socket(self._config.host, self._config.http_port, inherited)
        self.port = int(self._listener.getsockname()[1])
        # `Server.serve` would take the signals, and look ten times a second if it should end.
        config = self._server.config
        config.load()
        config.ssl = self._tls
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[self._listener])

    def rehearse(self, inherited: int | None) -> None:
        """Do what `open` would, and undo it. Raises `OSError`."""
        taken = take_over(inherited, self._config.host, self._config.http_port)
        listening_socket(self._config.host, self._config.http_port, taken).close()

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the listening socket."""
        return None if self._listener is None else self._listener.fileno()

    async def close(self) -> None:
        """Finish the requests under way, for a bounded time, and close."""
        if self._listener is not None:
            self._listener.pause()
            try:
                await asyncio.sleep(0)  # asyncio serves whom it has accepted only in its next turn
            finally:
                await self._server.shutdown(sockets=[self._listener])
                self._listener = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _uvicorn_config(self) -> uvicorn.Config:
        config = _PatientConfig(
            self._app,
            backlog=BACKLOG,
            http=_PatientProtocol,
            limit_concurrency=self._config.max_connections + _FOR_PROBES,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.ERROR,  # its warnings are what any scanner can cause at any rate
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_graceful_shutdown=max(1, round(self._config.close_timeout_s)),
        )
        config.slow_consumer_s = self._config.slow_consumer_s
        return config


class _PatientConfig(uvicorn.Config):
    """uvicorn's configuration, and how long a peer may read nothing."""

    slow_consumer_s = 60.0


class _PatientProtocol(H11Protocol):
    """HTTP for peers that ask, and read, within a bounded time; uvicorn would wait for ever."""

    _patience: asyncio.TimerHandle
    _look: asyncio.TimerHandle | None = None
    _is_last_request = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._patience = self.loop.call_later(_FIRST_REQUEST_WITHIN_S, self._drop_the_silent)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience.cancel()
        self._look_no_more()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._look_no_more()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.more_body:  # nobody reads it, nor what follows
            self.flow.pause_reading()
        if self._is_last_request:
            super().shutdown()

    def shutdown(self) -> None:
        """Close; but let who has just come have one answer, where uvicorn would hang up."""
        self._is_last_request = True
        if self._has_asked:
            super().shutdown()
        else:
            self._patience.cancel()
            self._patience = self.loop.call_later(_LAST_REQUEST_WITHIN_S, self._drop_the_silent)

    @property
    def _has_asked(self) -> bool:
        request: object = self.cycle  # None until the first request is complete
        return request is not None

    def _look_later(self) -> None:
        assert isinstance(self.config, _PatientConfig)
        unread_bytes = self.transport.get_write_buffer_size()
        self._look = self.loop.call_later(
            self.config.slow_consumer_s, self._drop_the_slow, unread_bytes
        )

    def _look_no_more(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _drop_the_slow(self, unread_bytes: int) -> None:
        """End a connection of which nothing was read: what waits for it holds up others."""
        if self.transport.get_write_buffer_size() >= unread_bytes:
            self.transport.abort()
        else:
            self._look_later()

    def _drop_the_silent(self) -> None:
        if not self._has_asked:
            self.transport.abort()


class _UnreadBodies:
    """Has the rest of a short body read before it is answered, so that the next request is heard.

    Where there is more, or it does not come at once, the connection ends with the answer.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in _METHODS_WITH_BODY:
            await self._app(scope, receive, send)
            return
        is_read = False

        async def receive_and_note() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def send_after_body(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_read:
                await _read_rest(receive_and_note)
                if not is_read:
                    closing = [*message["headers"], (b"connection", b"close")]
                    message = {**message, "headers": closing}
            await send(message)

        await self._app(scope, receive_and_note, send_after_body)


async def _read_rest(receive: Receive) -> None:
    """Read what is left of a body, if that is little and there."""
    size_bytes, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(_REST_WITHIN_S):
            while more and size_bytes <= _MAX_REST_BYTES:
                message = await receive()
                size_bytes += len(message.get("body", b""))
                more = message.get("more_body", False)


class _OriginGuard:
    """Refuses rebound names and foreign web pages before any route sees them."""

    def __init__(self, app: ASGIApp, rules: OriginRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        refusal = self._rules.judge(headers_of(scope))
        if refusal is not None:
            app = PlainTextResponse(refusal.sentence, refusal.status, dict(refusal.headers))
        await app(scope, receive, send)


async def _say_status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


async def _say_defect(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "internal error"}, 500)
