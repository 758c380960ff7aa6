"""One connection of a client, from its hello to its end.

Knows the library, and how a hello is answered; knows nothing of calls, or of what comes
after a connection.
"""

import asyncio
import ssl
from typing import Any, Self
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from exai.client.answers import Frame, decode_frame, encode_frame
from exai.client.errors import DaemonUnreachable, HelloRefused, ProtocolBroken
from exai.core.addresses import canonical_host, is_loopback

OPEN_TIMEOUT_S = 10.0
HELLO_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 2.0
_LOST = 1006


class LinkClosed(Exception):
    """The connection has ended; `code` is the close code, 1006 where nobody said goodbye."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}".rstrip() if code != _LOST else "connection lost")
        self.code = code


class Link:
    """A connection whose hello was accepted; `ack` is the daemon's `hello_ack`.

    `goes_away` tells whether the daemon has said that it is about to end.
    """

    ack: Frame

    def __init__(self, url: str, connection: ClientConnection) -> None:
        self._url = url
        self._connection = connection
        self.goes_away = False

    @classmethod
    async def open(
        cls, url: str, hello: Frame, *, tls: ssl.SSLContext | None, ping_interval_s: float
    ) -> Self:
        """Connect and say hello.

        Raises `DaemonUnreachable`, `HelloRefused`, `ProtocolBroken`.
        """
        connection = await _connect(url, tls, ping_interval_s)
        link = cls(url, connection)
        try:
            link.ack = await link._say_hello(hello)
        except BaseException:
            await connection.close()
            raise
        return link

    async def send(self, message: Frame) -> None:
        """Send one frame, without what is None. Raises `LinkClosed`."""
        await self.send_encoded(encode_frame(message))

    async def send_encoded(self, message: bytes) -> None:
        """Send one frame as it is. Raises `LinkClosed`."""
        try:
            await self._connection.send(message, text=True)
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def receive(self) -> Frame:
        """Wait for the next frame. Raises `LinkClosed`, `ProtocolBroken`."""
        try:
            return decode_frame(await self._connection.recv(decode=False))
        except ConnectionClosed as closed:
            raise _closed(closed) from None

    async def close(self) -> None:
        """Close, without a word to the daemon but the close frame."""
        await self._connection.close()

    async def _say_hello(self, hello: Frame) -> Frame:
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await self.send(hello)
                answer = await self.receive()
                if answer.get("op") != "hello_ack":
                    raise ProtocolBroken(f"{self._url} is no EXAI daemon")
                if answer.get("ok") is not True:
                    await self.receive()
        except TimeoutError:
            raise DaemonUnreachable(f"{self._url} does not answer our hello") from None
        except LinkClosed as closed:
            if closed.code == _LOST:
                raise DaemonUnreachable(f"{self._url} drops us before it has answered") from None
            raise HelloRefused(closed.code, str(closed)) from None
        return answer


class _Connect(connect):
    """A redirect would send the token, which the hello holds, to whom it names."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _connect(
    url: str, tls: ssl.SSLContext | None, ping_interval_s: float
) -> ClientConnection:
    options: dict[str, Any] = {} if tls is None else {"ssl": tls}
    try:
        return await _Connect(
            url,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            ping_interval=ping_interval_s,
            ping_timeout=ping_interval_s,
            compression=None,
            max_size=None,  # the daemon bounds its results, in a way that the operator chooses
            proxy=None if _is_this_machine(url) else True,
            **options,
        )
    except InvalidStatus as refusal:
        raise DaemonUnreachable(
            f"{url} answers with HTTP {refusal.response.status_code}"
        ) from refusal
    except (OSError, ValueError, EOFError, WebSocketException) as error:
        raise DaemonUnreachable(f"nobody answers at {url}: {error}") from error


def _is_this_machine(url: str) -> bool:
    return is_loopback(canonical_host(urlsplit(url).hostname or ""))


def _closed(closed: Any) -> LinkClosed:
    frame = closed.rcvd
    return LinkClosed(frame.code, frame.reason) if frame else LinkClosed(_LOST, "")
