"""The standard streams of a bridge, whatever is behind them, without holding the event loop.

Threads read and write, since a stream may be a pipe, a file or a terminal, and must not be
switched to non-blocking: it may be others' too. Nothing else of the process reaches stdout.
"""

import asyncio
import os
import select
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

_CHUNK_BYTES = 262_144
_CHUNKS_AHEAD = 2
_A_LOOK_S = 0.5
_FULL_BYTES = 4_194_304
_JOINED_BYTES = 262_144


def claim_stdio() -> tuple[int, int]:
    """Return descriptors of stdin and stdout that are ours alone.

    From now on whoever reads stdin finds its end, and what is printed goes to stderr.
    """
    try:
        ours = os.dup(0), os.dup(1)
    except OSError:  # started without one of them
        null = os.open(os.devnull, os.O_RDWR)
        return null, null
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    try:
        os.dup2(2, 1)
    except OSError:
        os.dup2(null, 1)
    os.close(null)
    for fd in ours:
        os.set_inheritable(fd, False)
    return ours


def warn(text: str) -> None:
    """Tell people one line, if stderr takes it at once: nobody may ever read it."""
    line = f"exai: {text}\n".encode(errors="backslashreplace")
    try:
        if select.select([], [2], [], 0)[1]:
            os.write(2, line)
    except (OSError, ValueError):
        return


class Stdin:
    """Reads ahead a little, and no more before that is taken.

    `on_hung_up` is called where nobody can write any more while what came before is not taken.
    """

    def __init__(self, fd: int, on_hung_up: Callable[[], object]) -> None:
        self._fd = fd
        self._on_hung_up = on_hung_up
        self._loop = asyncio.get_running_loop()
        self._read: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(_CHUNKS_AHEAD)
        threading.Thread(target=self._run, name="stdin", daemon=True).start()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what comes in, until it ends."""
        while chunk := await self._read.get():
            yield chunk
            self._room.release()

    def _run(self) -> None:
        chunk = b"-"
        with suppress(RuntimeError):  # the loop is closed: nobody wants it any more
            while chunk:
                chunk = self._next_chunk()
                self._loop.call_soon_threadsafe(self._read.put_nowait, chunk)

    def _next_chunk(self) -> bytes:
        while not self._room.acquire(timeout=_A_LOOK_S):
            if _is_hung_up(self._fd):
                self._loop.call_soon_threadsafe(self._on_hung_up)
                return b""
        try:
            return os.read(self._fd, _CHUNK_BYTES)
        except OSError:
            return b""


class Stdout:
    """Writes message after message; `on_broken` is called once nobody can read any more."""

    def __init__(self, fd: int, on_broken: Callable[[], object]) -> None:
        self._fd = fd
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._lines: deque[bytes] = deque()
        self._size_bytes = 0
        self._is_broken = False
        self._changed = threading.Condition()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._is_empty = asyncio.Event()
        self._is_empty.set()
        threading.Thread(target=self._run, name="stdout", daemon=True).start()

    def write(self, message: bytes) -> None:
        """Write a message after those before it. Never waits."""
        with self._changed:
            if self._is_broken:
                return
            self._lines.append(message)
            self._size_bytes += len(message) + 1
            if self._size_bytes > _FULL_BYTES:
                self._has_room.clear()
            self._is_empty.clear()
            self._changed.notify()

    def is_full(self) -> bool:
        """Tell whether the other side does not read, so that nothing needless is written."""
        return not self._has_room.is_set()

    def is_hung_up(self) -> bool:
        """Tell whether nobody can read any more."""
        return _is_hung_up(self._fd)

    async def wait_room(self) -> None:
        """Wait until the other side has read enough."""
        await self._has_room.wait()

    async def flush(self, within_s: float) -> None:
        """Wait until everything is written, but not for long."""
        try:
            async with asyncio.timeout(within_s):
                await self._is_empty.wait()
        except TimeoutError:
            return

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines)
                batch = self._take()
            try:
                _write_all(self._fd, batch)
            except OSError:
                self._break()
                return
            with self._changed:
                self._size_bytes -= len(batch)
                is_empty, has_room = not self._lines, self._size_bytes <= _FULL_BYTES // 2
            self._tell(is_empty=is_empty, has_room=has_room)

    def _take(self) -> bytes:
        lines: list[bytes] = []
        size_bytes = 0
        while self._lines and size_bytes < _JOINED_BYTES:
            lines.append(self._lines.popleft())
            size_bytes += len(lines[-1])
        return b"\n".join([*lines, b""])

    def _break(self) -> None:
        with self._changed:
            self._is_broken = True
            self._lines.clear()
        self._tell(is_empty=True, has_room=True)
        self._call(self._on_broken)

    def _tell(self, *, is_empty: bool, has_room: bool) -> None:
        if has_room:
            self._call(self._has_room.set)
        if is_empty:
            self._call(self._settle)

    def _settle(self) -> None:
        with self._changed:
            if self._is_broken or self._size_bytes == 0:
                self._is_empty.set()

    def _call(self, function: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function)


def _write_all(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:  # whoever shares the stream has made it non-blocking
            select.select([], [fd], [])


def _is_hung_up(fd: int) -> bool:
    if sys.platform == "win32":
        return False
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))
