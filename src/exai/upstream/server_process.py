"""One MCP server's process: lines to it, lines from it, and what it says on stderr.

Knows pipes and bounds; knows nothing of what a message says, nor when a server is to be
started.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from exai.core.mcp_words import CANCELLED
from exai.processes.process_guard import GuardedProcess
from exai.upstream.carrier import Carrier, Message, Receiver
from exai.upstream.line_splitter import LineSplitter, Overlong
from exai.upstream.speech import MAX_LINE_BYTES, Speech

_CHUNK_BYTES = 65_536
_LINES_A_TURN = 64
_TOGETHER_BYTES = 32_768
_FLOOD_PAUSE_S = 0.01
_EXIT_WAIT_S = 0.25
_STOP_GRACE_S = 2.0
_MAX_UNREAD_BYTES = 1_048_576


class ServerProcess(Carrier):
    """A running MCP server, seen as two streams of lines."""

    _watching: asyncio.Task[None] | None = None
    _closing: asyncio.Task[None] | None = None

    def __init__(self, process: GuardedProcess, speech: Speech, max_line_bytes: int) -> None:
        self.pid = process.pid
        self._process = process
        self._speech = speech
        self._splitter = LineSplitter(max_line_bytes)
        self._loop = asyncio.get_running_loop()
        self._writing = asyncio.Lock()
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._fault: str | None = None

    async def run(self, receiver: Receiver) -> str:
        """Bring the lines of stdout until it ends; return how the process did."""
        async for line in self._lines():
            await receiver.take(line)
        self.has_ended = True
        return await self._describe_end()

    async def attend(self) -> None:
        """Hear what the server says on stderr, and notice its end."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read_stderr())
            self._closing = tasks.create_task(self._close_after_exit())
            self._watching = tasks.create_task(self._watch_stdin())

    @asynccontextmanager
    async def carry(self, request: Message) -> AsyncIterator[bool]:
        """Write the request once there is room."""
        yield await self._write_line(request.encode())

    def cancel(self, request_id: int) -> bool:
        """Tell the server, which may answer nevertheless."""
        cancelled = {"requestId": request_id}
        self.notify(Message(method=CANCELLED, params=cancelled))
        return True

    def notify(self, message: Message) -> None:
        """Send a notification; it is lost where the server has ended."""
        self.write_nowait(message.encode())

    async def write(self, answer: bytes) -> None:
        """Write an answer once there is room."""
        await self._write_line(answer)

    def write_nowait(self, answer: bytes) -> None:
        """Write a short line without waiting; a server that reads none of them is given up."""
        self._write(answer)
        if self._process.stdin.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self._break_off("does not read its input")

    async def know_tools(self, tools: Sequence[dict[str, Any]]) -> dict[str, str]:
        """Find that all can be called: nothing of them changes what is written."""
        return {}

    async def stop(self) -> None:
        """Close stdin, then SIGTERM, then SIGKILL; bounded."""
        if self._watching is not None:
            self._watching.cancel()
        await self._process.stop(_STOP_GRACE_S)
        if self._closing is not None:
            self._closing.cancel()

    async def _lines(self) -> AsyncIterator[bytearray | Overlong]:
        """Yield the lines of stdout until it ends, soon after the process at the latest."""
        turn = 0
        while chunk := await self._process.stdout.read(_CHUNK_BYTES):
            for line in self._splitter.feed(chunk):
                turn += 1
                if turn % _LINES_A_TURN == 0:
                    await asyncio.sleep(0)
                if self._fault is not None:
                    return
                if line:
                    yield line

    async def _write_line(self, line: bytes) -> bool:
        """Write a line once there is room. False: the server cannot get it any more.

        No more than one write of lines is on its way, and a line, so that nothing piles up
        before a server that does not read.
        """
        async with self._writing:
            try:
                await self._process.stdin.drain()
            except ConnectionError:
                return False
            return self._write(line)

    async def _read_stderr(self) -> None:
        """Hand on what the server says, until its end; slows down one that floods."""
        splitter = LineSplitter(MAX_LINE_BYTES)
        while chunk := await self._process.stderr.read(_CHUNK_BYTES):
            if not self._speech.may_speak():
                self._speech.leave_out(chunk.count(b"\n"))
                await asyncio.sleep(_FLOOD_PAUSE_S)
                continue
            for line in splitter.feed(chunk):
                self._speech.say(line.head if isinstance(line, Overlong) else line)

    async def _watch_stdin(self) -> None:
        """Give a server up that has closed its stdin and lives on: it will answer nothing."""
        with suppress(ConnectionError):
            await self._process.stdin.wait_closed()
        if await self._exit_status() is None:
            self._break_off("closed its input")

    async def _close_after_exit(self) -> None:
        """Wait for the process's end, and let no one who holds its stdout prolong it."""
        await self._process.wait()
        await asyncio.sleep(_EXIT_WAIT_S)
        self._process.close_pipes()

    async def _describe_end(self) -> str:
        """Return how the process ended, once its stdout has."""
        if self._fault is not None:
            return self._fault
        status = await self._exit_status()
        if status is None:
            return "closed its output"
        if status < 0:
            return f"was killed by {_signal_name(-status)}"
        return f"exited with status {status}"

    def _write(self, line: bytes) -> bool:
        """Write a line, together with what else comes in this turn of the event loop.

        A write wakes the server, which costs us more than the write itself.
        """
        if self._process.stdin.is_closing():
            return False
        if not self._unwritten:
            self._loop.call_soon(self._write_out)
        self._unwritten.append(line)
        self._unwritten_bytes += len(line)
        if self._unwritten_bytes > _TOGETHER_BYTES:
            self._write_out()
        return True

    def _write_out(self) -> None:
        lines, self._unwritten, self._unwritten_bytes = self._unwritten, [], 0
        if lines and not self._process.stdin.is_closing():
            self._process.stdin.write(b"\n".join([*lines, b""]))

    async def _exit_status(self) -> int | None:
        """Return the exit status; None where the process is not about to end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_WAIT_S):
                return await self._process.wait()
        return None

    def _break_off(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._process.close_pipes()


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
