"""What one connection still has to send: in order, bounded in bytes and by the peer's patience.

Results rest in the ledger, whatever happens here; an outbox ends with its connection.
Where a peer falls behind, what is said of one call's progress is merged: its messages are
replaced by later ones, its streamed text grows in one piece.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import msgspec

from exai.core.channel import Channel
from exai.core.replies import CallAnswered, CallProgressed, Reply
from exai.protocols.close_codes import SLOW_CONSUMER, Close

OnSent = Callable[[list[str]], Awaitable[None]]
"""Told the request ids of results that were written to a socket."""

_IN_STEP_BYTES = 65_536
_MERGED_TEXT_LENGTH = 65_536
_FRAME_BYTES = 200


class _Waiting:
    """One frame on its way. `progress` is encoded only when its turn has come."""

    __slots__ = ("frame", "progress", "result_of", "size_bytes")

    def __init__(
        self,
        frame: bytes = b"",
        *,
        progress: CallProgressed | None = None,
        result_of: str | None = None,
    ) -> None:
        self.frame = frame
        self.progress = progress
        self.result_of = result_of
        self.size_bytes = len(frame) if progress is None else _size_bytes(progress)


class Outbox:
    """Replies on their way to one channel: `put` and `finish` never wait.

    To a peer that keeps pace all is sent in the next turn of the event loop, what comes
    together in one go; to any other `run` sends one after the other. `on_sent` hears of the
    results that were written, some at a time.
    """

    def __init__(
        self,
        encode: Callable[[Reply], bytes],
        *,
        max_bytes: int,
        patience_s: float,
        on_sent: OnSent | None = None,
        noted_at_once: int = 1,
    ) -> None:
        self._encode = encode
        self._max_bytes = max_bytes
        self._patience_s = patience_s
        self._on_sent = on_sent
        self._noted_at_once = noted_at_once
        self._sent: list[str] = []
        self._sent_bytes = 0
        self._is_note_due = False
        self._is_send_due = False
        self._channel: Channel | None = None
        self._loop = asyncio.get_running_loop()  # asked for each frame, it makes a system call
        self._waiting: deque[_Waiting] = deque()
        self._latest: dict[str, _Waiting] = {}
        self._waiting_bytes = 0
        self._largest_bytes = 0
        self._has_news = asyncio.Event()
        self._has_room = asyncio.Event()
        self._patience: asyncio.Timeout | None = None
        self._sending_since: float | None = None
        self._farewell: Close | None = None
        self._is_closed = False

    def put(self, reply: Reply) -> None:
        """Add a reply; what comes after the end is dropped."""
        if self._is_closed:
            return
        if isinstance(reply, CallProgressed):
            self._put_progress(reply)
        else:
            result_of = reply.request_id if isinstance(reply, CallAnswered) else None
            self._append(_Waiting(self._encode(reply), result_of=result_of))

    def greet(self, frame: bytes) -> None:
        """Say this before everything that waits already."""
        if not self._is_closed:
            self._waiting.appendleft(_Waiting(frame))
            self._waiting_bytes += len(frame)

    async def wait_room(self) -> None:
        """Wait until so little waits that one more reply is no burden, or the end has come."""
        while self._waiting_bytes > _IN_STEP_BYTES and not self._is_closed:
            self._has_room.clear()
            await self._has_room.wait()

    def finish(self, farewell: Close) -> None:
        """Take no more replies; what waits is still sent, then the connection is closed."""
        self._farewell = self._farewell or farewell
        self._is_closed = True
        self._has_news.set()
        self._has_room.set()

    def abandon(self, farewell: Close) -> None:
        """Send nothing more, not even what waits, and have the connection closed."""
        self._farewell = None
        self.finish(farewell)
        self._drop_all()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(self._loop.time())

    async def run(self, channel: Channel) -> Close:
        """Send until finished or abandoned, or until the peer is too slow, and return why.

        Raises `ChannelClosed`.
        """
        try:
            async with asyncio.timeout(None) as self._patience:
                self._look = self._loop.call_later(self._patience_s, self._look_at_peer)
                self._channel = channel
                return await self._send_all(channel)
        except TimeoutError:
            return self._farewell or SLOW_CONSUMER
        finally:
            self._is_closed = True
            self._channel = self._patience = None
            self._look.cancel()
            self._drop_all()

    async def _send_all(self, channel: Channel) -> Close:
        while True:
            while self._waiting and not self._is_note_due:
                waiting = self._take_next()
                self._sending_since = self._loop.time()
                self._waiting_bytes -= waiting.size_bytes
                await channel.send(waiting.frame)
                self._has_room.set()
                self._note_sent(waiting.result_of, waiting.frame)
            self._sending_since = None
            if self._is_note_due and self._on_sent is not None:
                sent, self._sent = self._sent, []
                self._sent_bytes, self._is_note_due = 0, False
                await self._on_sent(sent)
            if self._waiting or self._is_note_due:
                continue
            if self._farewell is not None:
                return self._farewell
            self._has_news.clear()
            await self._has_news.wait()

    def _look_at_peer(self) -> None:
        """End a send that waits for its peer for too long; else look again when one may.

        One timer a connection: to set and forget one for each frame costs more than sending.
        """
        now, since = self._loop.time(), self._sending_since
        look_at = (now if since is None else since) + self._patience_s
        if look_at > now:
            self._look = self._loop.call_at(look_at, self._look_at_peer)
        elif self._patience is not None:
            self._patience.reschedule(now)

    def _note_sent(self, result_of: str | None, frame: bytes) -> None:
        if result_of is None or self._on_sent is None:
            return
        self._sent.append(result_of)
        self._sent_bytes += len(frame)
        if len(self._sent) >= self._noted_at_once or self._sent_bytes > _IN_STEP_BYTES:
            self._is_note_due = True
            self._has_news.set()

    def _take_next(self) -> _Waiting:
        waiting = self._waiting.popleft()
        if not self._waiting:
            self._largest_bytes = 0
        if waiting.progress is not None:
            if self._latest.get(waiting.progress.request_id) is waiting:
                del self._latest[waiting.progress.request_id]
            waiting.frame = self._encode(waiting.progress)
        return waiting

    def _put_progress(self, reply: CallProgressed) -> None:
        latest = self._latest.get(reply.request_id)
        if latest is not None and self._waiting_bytes > _IN_STEP_BYTES:
            assert latest.progress is not None
            merged = _merged(latest.progress, reply)
            if merged is not None:
                self._waiting_bytes -= latest.size_bytes
                latest.progress, latest.size_bytes = merged, _size_bytes(merged)
                self._add_bytes(latest.size_bytes)
                return
        waiting = _Waiting(progress=reply)
        self._latest[reply.request_id] = waiting
        self._append(waiting)

    def _append(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._add_bytes(waiting.size_bytes)
        if not self._is_send_due:
            self._is_send_due = True
            self._loop.call_soon(self._send_at_once)

    def _send_at_once(self) -> None:
        """Send what waits, without waking `run`, where that needs no waiting.

        A large frame is left to `run`, which waits until the peer has read it.
        """
        self._is_send_due = False
        channel = self._channel
        if channel is None or self._sending_since is not None or not channel.is_ready:
            self._has_news.set()
            return
        taken: list[_Waiting] = []
        left_bytes = _IN_STEP_BYTES
        while self._waiting and self._waiting[0].size_bytes <= left_bytes:
            waiting = self._take_next()
            self._waiting_bytes -= waiting.size_bytes
            left_bytes -= waiting.size_bytes
            taken.append(waiting)
        if taken:
            channel.send_at_once([waiting.frame for waiting in taken])
            self._has_room.set()
            for waiting in taken:
                self._note_sent(waiting.result_of, waiting.frame)
        if self._waiting:
            self._has_news.set()

    def _add_bytes(self, size_bytes: int) -> None:
        """Count what waits beside the largest reply, which may be as large as it is."""
        self._waiting_bytes += size_bytes
        self._largest_bytes = max(self._largest_bytes, size_bytes)
        if self._waiting_bytes - self._largest_bytes > self._max_bytes:
            self.abandon(SLOW_CONSUMER)

    def _drop_all(self) -> None:
        self._waiting.clear()
        self._latest.clear()


def _size_bytes(progress: CallProgressed) -> int:
    return _FRAME_BYTES + len(progress.message or "") + len(progress.delta or "")


def _merged(earlier: CallProgressed, later: CallProgressed) -> CallProgressed | None:
    """Return both in one; None where streamed text of both cannot stand in one piece."""
    delta, offset, attempt = earlier.delta, earlier.offset, earlier.attempt
    if later.delta is not None:
        if delta is None or later.attempt != attempt or later.offset == 0:
            delta, offset, attempt = later.delta, later.offset, later.attempt
        elif later.offset == offset + len(delta) and len(delta) < _MERGED_TEXT_LENGTH:
            delta += later.delta
        else:
            return None
    return msgspec.structs.replace(
        later,
        message=later.message if later.message is not None else earlier.message,
        level=later.level if later.message is not None else earlier.level,
        progress=later.progress if later.progress is not None else earlier.progress,
        total=later.total if later.progress is not None else earlier.total,
        delta=delta,
        offset=offset,
        attempt=attempt,
    )
