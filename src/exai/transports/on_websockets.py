"""WebSocket connections on the library `websockets`.

Knows where this library must be held back: a peer that has not said who it is may send
little. Knows nothing of channels, and nothing of the other library.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, ClassVar, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import CTRL_OPCODES, CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import CONNECTING, OPEN, Event

from exai.core.config import ServerConfig
from exai.transports.library_log import library_log
from exai.transports.listening import BACKLOG
from exai.transports.reading import DiscardPace, Pause, Reading
from exai.transports.upgrade_rules import Refusal, Upgrade, UpgradeRules
from exai.transports.websocket_channel import ENTRY_ALLOWANCE_BYTES, POLITE_CODES, QUEUED_FRAMES

_PORTION_BYTES = 1024
"""What is parsed at once: all frames in it are taken in one go."""
_PONG_BEGIN = b"\x8a"


def _ignore() -> None:
    """Do nothing."""


class WebsocketsConnection(ServerConnection):
    """A connection of which little is read until its peer was let in, and little at once."""

    closed_exception: ClassVar[type[Exception]] = ConnectionClosed
    upgrade: Upgrade

    def __init__(self, *args: Any, pace: DiscardPace, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pace = pace
        self._entry_left_bytes: int | None = ENTRY_ALLOWANCE_BYTES
        self._first_message_is_in = False
        self._unparsed = b""
        self._frame_count = self._control_count = 0
        self._owed_pong: bytes | None = None
        self._end_of_patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over when the connection is read."""
        super().connection_made(transport)
        self._reading = Reading(self.transport, self._pace, self._parse_on)
        self.recv_messages.pause = partial(self._reading.pause, Pause.QUEUE)
        self.recv_messages.resume = partial(self._reading.resume, Pause.QUEUE)

    def data_received(self, data: bytes) -> None:
        """Parse what came, little by little."""
        if self.protocol.eof_sent:  # nothing of it is heard any more
            self._reading.discard()
            return
        self._unparsed += data
        self._parse_on()

    def _parse_on(self) -> None:
        """Parse what has come, until there is a reason to read no more."""
        unparsed, self._unparsed, position = self._unparsed, b"", 0
        while position < len(unparsed) and not (self._reading.is_paused or self.protocol.eof_sent):
            portion = unparsed[position : position + _PORTION_BYTES]
            position += len(portion)
            self._parse(portion)
        if not self.protocol.eof_sent:
            self._unparsed = unparsed[position:]

    def _parse(self, portion: bytes) -> None:
        """Parse, count while the peer has not been let in, and notice the end."""
        self._frame_count = self._control_count = 0
        super().data_received(portion)
        self._reading.rest_if_flooded(len(portion), self._frame_count, self._control_count)
        if self._entry_left_bytes is not None:
            self._entry_left_bytes -= len(portion)
            if self._entry_left_bytes < 0:
                self._hold_back()
        if self.protocol.close_expected() and self._end_of_patience is None:
            # The library waits for the peer to leave, and minds the time only where it sends.
            self._end_of_patience = self.loop.call_later(self.close_timeout or 0.0, self.abort)

    def process_event(self, event: Event) -> None:
        """Take the request or one frame; a data frame that ends a message is noted."""
        self._frame_count += 1
        if isinstance(event, Frame) and event.opcode in CTRL_OPCODES:
            self._control_count += 1
        elif isinstance(event, Frame) and event.fin:
            self._first_message_is_in = True
        super().process_event(event)

    async def send_text(self, message: bytes) -> None:
        """Send UTF-8 bytes as a text message; wait until the peer has read what waits."""
        await self.send(message, text=True)

    @property
    def is_ready(self) -> bool:
        """Tell whether the peer is there and reads as fast as it is written to."""
        is_open = self.protocol.state is OPEN and not self.transport.is_closing()
        return is_open and not self.paused

    def send_at_once(self, messages: Sequence[bytes]) -> None:
        """Send text messages by one write: the library would make a system call for each."""
        for message in messages:
            self.protocol.send_text(message)
        self.protocol.writes = [b"".join(self.protocol.writes)]
        self.send_data()

    def send_data(self) -> None:
        """Send; while the peer does not read, only the latest of the pongs that it is owed."""
        if self.paused:
            writes, self.protocol.writes = self.protocol.writes, []
            for write in writes:
                if write.startswith(_PONG_BEGIN):
                    self._owed_pong = write
                else:
                    self.protocol.writes.append(write)
        super().send_data()

    def resume_writing(self) -> None:
        """Say what was held back."""
        super().resume_writing()
        if self._owed_pong is not None:
            self.transport.write(self._owed_pong)
            self._owed_pong = None

    def eof_received(self) -> None:
        """Drop the connection: no peer of a WebSocket leaves and reads on.

        A transport of asyncio that writes its last bytes after the end of the input cannot
        be aborted afterwards (python/cpython), which the library does in every late `send`.
        """
        super().eof_received()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what waited for the end, and a message that a traceback would hold."""
        if self._end_of_patience is not None:
            self._end_of_patience.cancel()
        self._reading.end()
        super().connection_lost(exc)
        if self.protocol.parser_exc is not None:
            self.protocol.parser_exc.__traceback__ = None
        self._break_cycles()

    def _break_cycles(self) -> None:
        """Let everything go with its last user: thousands of peers would wait for the collector.

        All of these are the library's, and nobody asks for them any more.
        """
        self.recv_messages.pause = self.recv_messages.resume = _ignore
        self.protocol.parser.close()
        del self.protocol.select_subprotocol

    def lift_entry_limit(self) -> None:
        """Read on: the peer was let in."""
        self._entry_left_bytes = None
        self._reading.resume(Pause.ENTRY)

    async def finish(self, code: int, reason: str) -> None:
        """Send a close frame and wait for the end."""
        if self._entry_left_bytes is None and code in POLITE_CODES:
            await self.close(code, reason)
        else:
            self._refuse(code, reason)
            await self.wait_closed()

    def abort(self) -> None:
        """Drop the connection at once."""
        self.transport.abort()

    def _hold_back(self) -> None:
        """Let the rest wait for the verdict on the first message, or refuse what is none."""
        if self._first_message_is_in:
            self._reading.pause(Pause.ENTRY)
        elif self.state is CONNECTING:
            self.abort()
        else:
            self._refuse(CloseCode.MESSAGE_TOO_BIG, "first message too long")

    def _refuse(self, code: int, reason: str) -> None:
        """Say why and that nothing more comes, and read on into nowhere.

        A peer that was not let in may be in the middle of anything: its goodbye is not
        waited for, and to close on unread bytes would unsay ours.
        """
        self._entry_left_bytes = None
        if self.state is OPEN:
            self.protocol.fail(code, reason)
            self.send_data()
            self._reading.discard()


async def listen(
    listener: socket.socket,
    config: ServerConfig,
    rules: UpgradeRules,
    handler: Callable[[Any], Awaitable[None]],
    tls: ssl.SSLContext | None = None,
) -> Server:
    """Serve WebSocket connections on a bound socket, each with `handler`."""

    def judge(connection: ServerConnection, request: Request) -> Response | None:
        assert isinstance(connection, WebsocketsConnection)
        verdict = rules.judge(request.path, list(request.headers.raw_items()))
        if isinstance(verdict, Refusal):
            response = connection.respond(verdict.status, verdict.sentence)
            response.headers.update(verdict.headers)
            return response
        connection.upgrade = verdict
        return None

    def agreed_subprotocol(connection: ServerConnection, _offered: Sequence[str]) -> Any:
        assert isinstance(connection, WebsocketsConnection)
        return connection.upgrade.subprotocol

    return await serve(
        handler,
        sock=listener,
        backlog=BACKLOG,
        process_request=judge,
        select_subprotocol=agreed_subprotocol,
        compression=None,
        server_header=None,
        open_timeout=config.hello_timeout_s,
        ping_interval=config.ping_interval_s or None,
        ping_timeout=config.ping_timeout_s or None,
        close_timeout=config.close_timeout_s,
        max_size=config.max_message_bytes,
        max_queue=QUEUED_FRAMES,
        logger=library_log("websockets"),
        create_connection=cast(Any, partial(WebsocketsConnection, pace=DiscardPace())),
        **(_tls_options(tls, config) if tls else {}),
    )


def _tls_options(tls: ssl.SSLContext, config: ServerConfig) -> dict[str, Any]:
    """Have `loop.create_server` be no more patient than without TLS."""
    return {
        "ssl": tls,
        "ssl_handshake_timeout": config.hello_timeout_s,
        "ssl_shutdown_timeout": config.close_timeout_s,
    }
