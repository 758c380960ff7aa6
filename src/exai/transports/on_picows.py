"""WebSocket connections on the library `picows`, by its twin of the `websockets` API.

Knows where this library must be held back: its limits are kept here, where a peer that
breaks them is told so before the connection ends, and a peer that has not said who it is
may send little. Knows nothing of channels, and nothing of the other library.
"""

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import picows
from picows.websockets import ConnectionClosed, ServerConnection
from picows.websockets.asyncio.server import Server
from picows.websockets.compat import Request, Response

from exai.core.config import ServerConfig
from exai.transports.library_log import hush, library_log
from exai.transports.listening import BACKLOG
from exai.transports.reading import DiscardPace, Pause, Reading
from exai.transports.upgrade_rules import SHUTTING_DOWN, Refusal, Upgrade, UpgradeRules
from exai.transports.websocket_channel import ENTRY_ALLOWANCE_BYTES, POLITE_CODES, QUEUED_FRAMES

_CLOSE = picows.WSMsgType.CLOSE
_PING = picows.WSMsgType.PING
_PONG = picows.WSMsgType.PONG
_NEVER_SENT = (picows.WSCloseCode.NO_INFO, picows.WSCloseCode.ABNORMAL_CLOSURE)
_LAST_CLOSE_CODE = 4999
_PROTOCOL_ERROR = 1002
_MESSAGE_TOO_BIG = 1009
_MAX_FRAGMENTS = 4096  # as `websockets` has it: a fragment costs far more memory than bytes
_READ_BUFFER_BYTES = 8192  # grows on demand, and stays grown
_WRITE_LIMIT_BYTES = 32_768
_PORTION_BYTES = 4096
"""What is read at once: all frames in it are taken in one go."""
_NOWHERE = memoryview(bytearray(65_536))


def _ignore() -> None:
    """Do nothing."""


class ByteGate(asyncio.BufferedProtocol):
    """Stands between transport and library, and tells when more came than is allowed.

    The library keeps an unfinished frame in a buffer that grows with it, up to a limit that
    is the same for all connections, and with every read that fills it; and where it refuses
    a frame, it closes on unread bytes, so that the peer is reset before it can read why.
    """

    def __init__(
        self, transport: asyncio.Transport, reading: Reading, on_excess: Callable[[], None]
    ) -> None:
        self.left_bytes = ENTRY_ALLOWANCE_BYTES
        self.frame_count = self.control_count = 0
        self.is_discarding = False
        self._reading = reading
        self._on_excess = on_excess
        self._library: Any = transport.get_protocol()
        transport.set_protocol(self)

    def discard(self) -> None:
        """Read on into nowhere."""
        self.is_discarding = True
        self._reading.discard()

    def get_buffer(self, sizehint: int) -> Any:
        """Return where to put what comes."""
        if self.is_discarding:
            return _NOWHERE
        return self._library.get_buffer(sizehint)[:_PORTION_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what came, and count it."""
        if self.is_discarding:
            self._reading.discard()
            return
        self.left_bytes -= nbytes
        self.frame_count = self.control_count = 0
        self._library.buffer_updated(nbytes)
        if not self.is_discarding:
            self._reading.rest_if_flooded(nbytes, self.frame_count, self.control_count)
            if self.left_bytes < 0:
                self._on_excess()

    def eof_received(self) -> bool | None:
        """Hand on."""
        return self._library.eof_received()  # type: ignore[no-any-return]

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand on, and let go: a buffer as large as a message must not wait for the collector."""
        self._reading.end()
        self._on_excess = _ignore
        library, self._library = self._library, None
        library.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand on."""
        self._library.pause_writing()

    def resume_writing(self) -> None:
        """Hand on."""
        self._library.resume_writing()


class PicowsConnection(ServerConnection):
    """A connection whose limits hold in memory, and of which little is read before entry."""

    closed_exception: ClassVar[type[Exception]] = ConnectionClosed

    def __init__(
        self, upgrade: Upgrade, config: ServerConfig, pace: DiscardPace, **parts: Any
    ) -> None:
        super().__init__(
            subprotocol=upgrade.subprotocol,
            permessage_deflate=None,
            ping_interval=config.ping_interval_s or None,
            ping_timeout=config.ping_timeout_s or None,
            close_timeout=config.close_timeout_s,
            max_queue=None,  # minded here: the library would read on whoever paused
            write_limit=_WRITE_LIMIT_BYTES,
            max_message_size=None,
            max_frame_size=None,
            **parts,
        )
        self.upgrade = upgrade
        self._pace = pace
        self._max_message_bytes = config.max_message_bytes
        self._close_timeout_s = config.close_timeout_s
        self._has_entered = False
        self._first_message_is_in = False
        self._message_bytes = 0
        self._fragment_count = 0
        self._waiting_count = 0
        self._owed_pong: bytes | None = None
        self._may_write = True
        self._writable: asyncio.Future[None] | None = None
        self._end_of_patience: asyncio.TimerHandle | None = None

    def on_ws_connected(self, transport: picows.WSTransport) -> None:
        """Put the gate before the first frame comes."""
        self._wire = transport
        self._reading = Reading(transport.underlying_transport, self._pace)
        self._gate = ByteGate(transport.underlying_transport, self._reading, self._hold_back)
        super().on_ws_connected(transport)

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take one frame."""
        opcode, gate = frame.msg_type, self._gate
        gate.frame_count += 1
        if frame.rsv1 or frame.rsv2 or frame.rsv3:
            self._refuse(_PROTOCOL_ERROR, "reserved bit set")
        elif opcode is _PING:
            self._answer_ping(frame.get_payload_as_bytes())
        elif opcode is _CLOSE:
            self._answer_close(transport, frame)
        elif opcode is not _PONG:
            self._count(frame)
        if opcode is _PING or opcode is _PONG:
            gate.control_count += 1
        if not self._fragment_count and self._has_entered:
            self._allow_next_message()
        if opcode is not _PING and not gate.is_discarding:
            super().on_ws_frame(transport, frame)

    async def recv(self, decode: bool | None = None) -> str | bytes:
        """Wait for the next message."""
        message: str | bytes = await super().recv(decode)
        self._waiting_count -= 1
        if self._reading.is_paused and self._waiting_count < QUEUED_FRAMES:
            self._reading.resume(Pause.QUEUE)
        return message

    @property
    def is_ready(self) -> bool:
        """Tell whether the peer is there and reads as fast as it is written to."""
        wire = self._wire
        return (
            self._may_write
            and not wire.is_close_frame_sent
            and not wire.is_disconnected
            and not wire.underlying_transport.is_closing()
        )

    def send_at_once(self, messages: Sequence[bytes]) -> None:
        """Send text messages by one write: the library would make a system call for each."""
        frames = [part for message in messages for part in (_head_of(message), message)]
        self._wire.underlying_transport.write(b"".join(frames))

    async def send_text(self, message: bytes) -> None:
        """Send UTF-8 bytes as a text message; wait until the peer has read what waits.

        Instead of `send`, which hands uvloop a view of the library's own buffer as the head of
        a large frame, and writes the next head into it while a slow peer waits for the first.
        """
        await self._wait_may_write()
        self.send_at_once([message])
        await self._wait_may_write()

    async def _wait_may_write(self) -> None:
        while not (self._may_write or self._wire.is_disconnected):
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable
        if self._wire.is_close_frame_sent or self._wire.is_disconnected:
            await self.send(b"", text=True)  # which raises once the connection has ended

    def pause_writing(self) -> None:
        """Note that the peer does not read as fast as it is written to."""
        self._may_write = False
        super().pause_writing()

    def resume_writing(self) -> None:
        """Say what was held back."""
        self._may_write = True
        super().resume_writing()
        self._wake_writer()
        if self._owed_pong is not None:
            self._wire.send_pong(self._owed_pong)
            self._owed_pong = None

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Forget what waited for the end."""
        if self._end_of_patience is not None:
            self._end_of_patience.cancel()
        super().on_ws_disconnected(transport)
        self._wake_writer()

    def lift_entry_limit(self) -> None:
        """Read on: the peer was let in."""
        self._has_entered = True
        self._allow_next_message()
        self._reading.resume(Pause.ENTRY)

    async def finish(self, code: int, reason: str) -> None:
        """Send a close frame, behind what may wait unsent, and wait for the end."""
        if self._has_entered and code in POLITE_CODES:
            self._wire.send_close(code, reason)  # type: ignore[arg-type]  # takes any number
        else:
            self._refuse(code, reason)
        await self.wait_closed()

    def abort(self) -> None:
        """Drop the connection at once."""
        self._wire.disconnect(graceful=False)

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _allow_next_message(self) -> None:
        """Let a whole message come."""
        self._gate.left_bytes = self._max_message_bytes + ENTRY_ALLOWANCE_BYTES

    def _answer_ping(self, payload: bytes) -> None:
        """Answer a ping; while the peer does not read, only the latest of them."""
        if self._may_write:
            self._wire.send_pong(payload)
        else:
            self._owed_pong = payload

    def _answer_close(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Answer a goodbye before the library does, where it would echo what may not be sent."""
        self._abort_soon()
        code: Any = frame.get_close_code()  # any number, whatever its type says
        if not frame.payload_size:
            transport.send_close(picows.WSCloseCode.OK)
        elif code in _NEVER_SENT or code > _LAST_CLOSE_CODE:
            transport.send_close(picows.WSCloseCode.PROTOCOL_ERROR, b"invalid close code")

    def _count(self, frame: picows.WSFrame) -> None:
        """Count a message's bytes and fragments, and begin anew after its last one."""
        self._message_bytes += frame.payload_size
        self._fragment_count += 1
        if self._message_bytes > self._max_message_bytes:
            self._refuse(_MESSAGE_TOO_BIG, "message too long")
        elif self._fragment_count > _MAX_FRAGMENTS:
            self._refuse(_MESSAGE_TOO_BIG, "too many fragments")
        elif frame.fin:
            self._message_bytes = self._fragment_count = 0
            self._first_message_is_in = True
            self._waiting_count += 1
            if self._waiting_count >= QUEUED_FRAMES:
                self._reading.pause(Pause.QUEUE)

    def _hold_back(self) -> None:
        """Let the rest wait for the verdict on the first message, or refuse what is none."""
        if self._has_entered:
            self._refuse(_MESSAGE_TOO_BIG, "message too long")
        elif self._first_message_is_in:
            self._reading.pause(Pause.ENTRY)
        else:
            self._refuse(_MESSAGE_TOO_BIG, "first message too long")

    def _refuse(self, code: int, reason: str) -> None:
        """Say why and that nothing more comes, and read on into nowhere.

        A peer that is sent away may be in the middle of anything: its goodbye is not waited
        for, and to close on unread bytes would unsay ours.
        """
        self._wire.send_close(code, reason)  # type: ignore[arg-type]  # takes any number
        with suppress(OSError, RuntimeError):  # the peer may be gone, and the end on its way
            self._wire.underlying_transport.write_eof()
        self._gate.discard()
        self._abort_soon()

    def _abort_soon(self) -> None:
        """Do not wait for ever for a peer that neither reads nor leaves."""
        if self._end_of_patience is None:
            loop = asyncio.get_running_loop()
            self._end_of_patience = loop.call_later(self._close_timeout_s, self.abort)


def _head_of(message: bytes) -> bytes:
    """Return what goes before a server's unfragmented text message (RFC 6455, section 5.2)."""
    size_bytes = len(message)
    if size_bytes < 126:
        return bytes((0x81, size_bytes))
    if size_bytes < 65_536:
        return b"\x81\x7e" + size_bytes.to_bytes(2, "big")
    return b"\x81\x7f" + size_bytes.to_bytes(8, "big")


def _is_no_unheard_close(record: logging.LogRecord) -> bool:
    """Tell whether asyncio complains of something else than a close that nobody waited for.

    The library tells each future of its own of the close, also that of a `send` which was
    cancelled while its peer did not read.
    """
    return not (record.exc_info and isinstance(record.exc_info[1], ConnectionClosed))


def _may_use_aiofastnet() -> bool:
    """Tell whether the fast socket transport hears of every end.

    uvloop calls a reader once after a reset and then never again; aiofastnet 1.2 reads what
    came before the reset in that one call, and would keep the dead connection open.
    """
    return isinstance(asyncio.get_running_loop(), asyncio.SelectorEventLoop)


async def listen(
    listener: socket.socket,
    config: ServerConfig,
    rules: UpgradeRules,
    handler: Callable[[Any], Awaitable[None]],
) -> Server:
    """Serve WebSocket connections on a bound socket, each with `handler`."""
    pace = DiscardPace()
    log = library_log("picows")
    hush("aiofastnet")  # it warns of every write to a peer that is gone
    logging.getLogger("asyncio").addFilter(_is_no_unheard_close)
    server = Server(handler, logger=log)

    def answer(request: picows.WSUpgradeRequest) -> picows.WSUpgradeResponseWithListener:
        verdict = rules.judge(request.path.decode(errors="replace"), list(request.headers.items()))
        if server.close_task is not None:
            verdict = SHUTTING_DOWN
        if isinstance(verdict, Refusal):
            body = verdict.sentence.encode()
            response = picows.WSUpgradeResponse.create_error_response(
                verdict.status, body, verdict.headers
            )
            return picows.WSUpgradeResponseWithListener(response, None)
        # The library wants this header to be that one word; Firefox sends two.
        request.headers["Connection"] = "Upgrade"
        agreed = {"Sec-WebSocket-Protocol": verdict.subprotocol} if verdict.subprotocol else {}
        response = picows.WSUpgradeResponse.create_101_response(agreed)
        connection = PicowsConnection(
            verdict,
            config,
            pace,
            server=server,
            request=Request.from_picows(request),
            response=Response.from_picows(response),
            logger=log,
        )
        return picows.WSUpgradeResponseWithListener(response, connection)

    raw_server = await picows.ws_create_server(
        answer,
        sock=listener,
        backlog=BACKLOG,
        websocket_handshake_timeout=config.hello_timeout_s,
        max_frame_size=sys.maxsize,  # the gate minds it
        enable_auto_pong=False,
        use_aiofastnet=_may_use_aiofastnet(),
        read_buffer_init_size=_READ_BUFFER_BYTES,
        logger_name=log,
    )
    server.wrap(raw_server)
    return server
