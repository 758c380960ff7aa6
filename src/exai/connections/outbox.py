"""What a peer is owed: frames in order, bounded in bytes and by the peer's patience."""

import asyncio
from collections import deque

from exai.core.channel import Channel
from exai.protocols.close_codes import Close


class SlowConsumer(Exception):
    """The peer did not read for too long, or too much waits for it."""


class Outbox:
    """Frames on their way to one channel: `put` and `finish` never wait, `run` sends."""

    def __init__(self, max_bytes: int, patience_s: float) -> None:
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._frames: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._has_news = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._farewell: Close | None = None
        self._is_closed = False
        self._is_overfull = False

    def put(self, frame: bytes) -> None:
        """Add a frame; what comes after the end is dropped."""
        if self._is_closed:
            return
        self._frames.append(frame)
        self._waiting_bytes += len(frame)
        self._has_news.set()
        if self._waiting_bytes > self._max_bytes:
            self._is_overfull = self._is_closed = True
            if self._patience is not None and not self._patience.expired():
                self._patience.reschedule(asyncio.get_running_loop().time())

    def finish(self, farewell: Close) -> None:
        """Take no more frames; what waits is still sent, then the connection is closed."""
        self._farewell = self._farewell or farewell
        self._is_closed = True
        self._has_news.set()

    async def run(self, channel: Channel) -> Close:
        """Send frames until finished, and return why.

        Raises `SlowConsumer` and `ChannelClosed`.
        """
        try:
            async with asyncio.timeout(None) as self._patience:
                return await self._send_all(channel, self._patience)
        except TimeoutError:
            raise SlowConsumer from None
        finally:
            self._is_closed = True
            self._frames.clear()

    async def _send_all(self, channel: Channel, patience: asyncio.Timeout) -> Close:
        loop = asyncio.get_running_loop()
        while True:
            while self._frames:
                if self._is_overfull:
                    raise SlowConsumer
                frame = self._frames.popleft()
                patience.reschedule(loop.time() + self._patience_s)
                await channel.send(frame)
                self._waiting_bytes -= len(frame)
            patience.reschedule(None)
            if self._farewell is not None:
                return self._farewell
            self._has_news.clear()
            await self._has_news.wait()
