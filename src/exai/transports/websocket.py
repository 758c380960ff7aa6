"""The WebSocket port: listens, lets connections in, and hands each out as a `Channel`.

Knows which library to use, and the order of an orderly end. Knows nothing of sessions or
of what is said: whoever is handed a channel does.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from types import TracebackType
from typing import Literal, Protocol, Self

from exai.core.addresses import canonical_host, is_loopback
from exai.core.channel import Channel
from exai.core.config import ServerConfig
from exai.protocols import close_codes
from exai.transports.listening import Listener, listening_socket, take_over
from exai.transports.upgrade_rules import MayEnter, UpgradeRules, nobody_may_enter
from exai.transports.websocket_channel import LibraryConnection, WebSocketChannel

ServeChannel = Callable[[Channel], Awaitable[None]]
LibraryName = Literal["picows", "websockets"]


class LibraryServer(Protocol):
    """What both libraries' servers can do."""

    def close(self, close_connections: bool = ...) -> None:
        """Take no new connections."""

    async def wait_closed(self) -> None:
        """Wait until the last connection has ended."""


ServeConnection = Callable[[LibraryConnection], Awaitable[None]]
Listen = Callable[
    [socket.socket, ServerConfig, UpgradeRules, ServeConnection], Awaitable[LibraryServer]
]


class WebSocketServer:
    """Serves each WebSocket connection with `serve_channel`, and closes it afterwards."""

    library: LibraryName

    def __init__(
        self,
        config: ServerConfig,
        serve_channel: ServeChannel,
        tls: ssl.SSLContext | None = None,
        may_enter: MayEnter = nobody_may_enter,
    ) -> None:
        self._config = config
        self._rules = UpgradeRules(config, may_enter)
        self._tls = tls
        self._serve_channel = serve_channel
        self._serving: dict[WebSocketChannel, asyncio.Task[None]] = {}
        self._server: LibraryServer | None = None
        self._listener: Listener | None = None
        self.port = 0

    async def open(self, inherited: socket.socket | None = None) -> None:
        """Begin to serve, on an inherited socket or on the configured address.

        Raises `OSError`.
        """
        bound = listening_socket(self._config.host, self._config.port, inherited)
        address, self.port = bound.getsockname()[:2]
        self.library = self._choose_library(address)
        listen = _listen_of(self.library, self._tls)
        self._listener = bound
        self._server = await listen(bound, self._config, self._rules, self._serve)

    def rehearse(self, inherited: int | None) -> None:
        """Do what `open` would, and undo it. Raises `OSError`, `ImportError`."""
        taken = take_over(inherited, self._config.host, self._config.port)
        with listening_socket(self._config.host, self._config.port, taken) as bound:
            _listen_of(self._choose_library(bound.getsockname()[0]), self._tls)

    @property
    def descriptor(self) -> int | None:
        """The descriptor of the listening socket."""
        return None if self._listener is None else self._listener.fileno()

    async def leave_waiting(self) -> None:
        """Take no new connections; who comes waits, if somebody else has the socket, too."""
        if self._listener is not None:
            self._listener.pause()
            await asyncio.sleep(0)  # asyncio serves whom it has accepted only in its next turn
            self.stop_accepting()

    def stop_accepting(self) -> None:
        """Take no new connections; those that are open go on."""
        if self._server is not None:
            self._server.close(close_connections=False)
            self._listener = None

    async def close(self) -> None:
        """Close what is open as a restart does; takes three close time-outs at the longest."""
        if self._server is None:
            return
        self.stop_accepting()
        async with asyncio.TaskGroup() as farewells:
            for channel in self._serving:
                farewells.create_task(channel.close(*close_codes.SERVICE_RESTART))
        if not await self._has_ended(self._server):
            for task in self._serving.values():
                task.cancel()
            await self._has_ended(self._server)
        self._server = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _choose_library(self, address: str) -> LibraryName:
        wanted = self._config.websocket_library
        return choose_library(wanted, address, has_tls=self._tls is not None)

    async def _has_ended(self, server: LibraryServer) -> bool:
        try:
            async with asyncio.timeout(self._config.close_timeout_s):
                await server.wait_closed()
        except TimeoutError:
            return False
        return True

    async def _serve(self, connection: LibraryConnection) -> None:
        config = self._config
        channel = WebSocketChannel(connection, config.close_timeout_s, config.trusted_proxies)
        task = asyncio.current_task()
        assert task is not None
        self._serving[channel] = task
        farewell = close_codes.DEFECT
        try:
            await self._serve_channel(channel)
            farewell = close_codes.NORMAL
        finally:
            await channel.close(*farewell)
            del self._serving[channel]


def choose_library(
    wanted: Literal["auto", "picows", "websockets"], address: str, *, has_tls: bool = False
) -> LibraryName:
    """Return which library serves an address: the fast one only where no network reaches it."""
    if wanted != "auto":
        return wanted
    is_local = is_loopback(canonical_host(address)) and not has_tls
    return "picows" if is_local and find_spec("picows") is not None else "websockets"


def _listen_of(library: LibraryName, tls: ssl.SSLContext | None) -> Listen:
    """Import the chosen library and no other: each costs a tenth of a second."""
    if library == "picows":
        from exai.transports import on_picows

        return on_picows.listen
    from exai.transports import on_websockets

    return partial(on_websockets.listen, tls=tls)
