"""Both ports and the certificate that they show: where they are, and what a successor gets.

Opens and closes them when it is told to; the order is the daemon's concern.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import NamedTuple

from starlette.routing import BaseRoute

from exai.core.config import ServerConfig
from exai.core.events import EventSink
from exai.processes.succession import Inheritance, duplicate
from exai.transports.http_app import HttpServer
from exai.transports.listening import take_over
from exai.transports.server_certificate import certificate_of
from exai.transports.upgrade_rules import MayEnter
from exai.transports.websocket import ServeChannel, WebSocketServer


class DaemonAddress(NamedTuple):
    """Where a daemon that is ready can be reached."""

    websocket_url: str
    http_url: str


class Doors:
    """The WebSocket port, whose channels `serve_channel` serves, and the HTTP port.

    `may_enter` judges a token, or its absence, before a channel of the subprotocol `mcp` opens.
    """

    def __init__(
        self,
        config: ServerConfig,
        serve_channel: ServeChannel,
        routes: Sequence[BaseRoute],
        may_enter: MayEnter,
        events: EventSink,
    ) -> None:
        self._config = config
        self._certificate = certificate_of(config, events)
        tls = None if self._certificate is None else self._certificate.context
        self._websocket = WebSocketServer(config, serve_channel, tls, may_enter)
        self._http = HttpServer(config, routes, tls)

    @property
    def ports(self) -> tuple[int, int]:
        """Return the port numbers, of the WebSocket and of HTTP; 0 before one is open."""
        return self._websocket.port, self._http.port

    @property
    def address(self) -> DaemonAddress:
        """Return where the open ports are."""
        host = self._config.host
        shown = f"[{host}]" if ":" in host else host
        s = "s" if self._certificate is not None else ""
        websocket_port, http_port = self.ports
        return DaemonAddress(
            f"ws{s}://{shown}:{websocket_port}/", f"http{s}://{shown}:{http_port}/"
        )

    def load_certificate(self) -> None:
        """Read the certificate, if there is one. Raises `CertificateUnusable`."""
        if self._certificate is not None:
            self._certificate.load()

    async def watch_certificate(self) -> None:
        """Read it again when its files change, until cancelled."""
        if self._certificate is not None:
            await self._certificate.watch(self._config.tls_reload_interval_s)

    def http_open(self, inherited: Inheritance) -> AbstractAsyncContextManager[None]:
        """Keep the HTTP port open inside. Entering raises `OSError`."""
        return _opened(self._http, inherited.http, self._config.host, self._config.http_port)

    def websocket_open(self, inherited: Inheritance) -> AbstractAsyncContextManager[None]:
        """Keep the WebSocket port open inside. Entering raises `OSError`."""
        return _opened(self._websocket, inherited.websocket, self._config.host, self._config.port)

    def rehearse(self, inherited: Inheritance) -> None:
        """Raise what would keep the ports from opening."""
        self.load_certificate()
        self._http.rehearse(inherited.http)
        self._websocket.rehearse(inherited.websocket)

    def estate(self, lock: int | None) -> Inheritance:
        """Return what a successor would inherit, while the ports are open."""
        return Inheritance(self._websocket.descriptor, self._http.descriptor, lock)

    async def hand_over(self, lock: int | None) -> Inheritance:
        """Return what a successor inherits, to outlive us; new WebSocket peers wait for it."""
        left = Inheritance(*(fd if fd is None else duplicate(fd) for fd in self.estate(lock)))
        await self._websocket.leave_waiting()
        return left


@asynccontextmanager
async def _opened(
    server: HttpServer | WebSocketServer, inherited: int | None, host: str, port: int
) -> AsyncIterator[None]:
    await server.open(take_over(inherited, host, port))
    try:
        yield
    finally:
        await server.close()
