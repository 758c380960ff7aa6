"""The HTTP port: serves the routes that it is handed, behind the rules of both ports.

Knows Starlette and uvicorn; knows nothing of what the routes say.
"""

import asyncio
import logging
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from exai.core.config import ServerConfig
from exai.transports.addresses import BACKLOG, listening_socket
from exai.transports.upgrade_rules import OriginRules

_MAX_HEADER_BYTES = 32_768


class HttpServer:
    """Serves HTTP while its context is open."""

    def __init__(self, config: ServerConfig, routes: Sequence[BaseRoute]) -> None:
        self._config = config
        self._app = Starlette(
            routes=routes,
            middleware=[Middleware(_OriginGuard, rules=OriginRules(config))],
            exception_handlers={HTTPException: _say_status},
        )
        self._tasks = asyncio.TaskGroup()
        self._server: _EmbeddedServer | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        """Bind and serve; raises `OSError` where the address cannot be had."""
        listener = listening_socket(self._config.host, self._config.http_port)
        self.port = int(listener.getsockname()[1])
        self._server = _EmbeddedServer(self._uvicorn_config())
        await self._tasks.__aenter__()
        self._tasks.create_task(self._server.serve(sockets=[listener]))
        await self._server.has_started.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Finish the requests under way, for a bounded time, and close."""
        if self._server is not None:
            self._server.should_exit = True
        # Whatever ends the context, uvicorn is let end by itself: it closes its sockets so.
        await self._tasks.__aexit__(None, None, None)

    def _uvicorn_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app,
            backlog=BACKLOG,
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level=logging.WARNING,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            timeout_graceful_shutdown=max(1, round(self._config.close_timeout_s)),
        )


class _EmbeddedServer(uvicorn.Server):
    """A server that leaves signals to the daemon, and tells when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.has_started.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _OriginGuard:
    """Refuses rebound names and foreign web pages before any route sees them."""

    def __init__(self, app: ASGIApp, rules: OriginRules) -> None:
        self._app = app
        self._rules = rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        refusal = self._rules.judge(HTTPConnection(scope).headers.items())
        if refusal is not None:
            app = PlainTextResponse(refusal.sentence, refusal.status, dict(refusal.headers))
        await app(scope, receive, send)


async def _say_status(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)
