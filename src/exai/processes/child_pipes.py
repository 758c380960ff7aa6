"""The three pipes of a child process: the daemon's ends as asyncio streams.

Pipes rather than sockets, because programs open `/dev/stdin` and `/dev/stderr` by name.
"""

import asyncio
import os
from contextlib import ExitStack
from typing import Self


class _Stdin(asyncio.StreamReaderProtocol):
    """Flow control for a write pipe, which remembers that it is closed for good."""

    is_lost = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        super().connection_lost(exc)


class ChildPipes:
    """The daemon's ends of a child's stdin, stdout and stderr."""

    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader
    stderr: asyncio.StreamReader

    def __init__(self) -> None:
        self._closing = ExitStack()

    @classmethod
    async def open(cls, child_ends: ExitStack) -> tuple[Self, list[int]]:
        """Return the pipes, and the child's ends, which `child_ends` closes.

        Raises `OSError` where no more files can be opened.
        """
        pipes = cls()
        try:
            pipes.stdin, stdin = await pipes._connect_input(child_ends)
            pipes.stdout, stdout = await pipes._connect_output(child_ends)
            pipes.stderr, stderr = await pipes._connect_output(child_ends)
        except BaseException:
            pipes.close()
            raise
        return pipes, [stdin, stdout, stderr]

    def close(self) -> None:
        """Close the daemon's ends at once; what was not yet written or read is lost."""
        self._closing.close()

    async def _connect_input(self, child_ends: ExitStack) -> tuple[asyncio.StreamWriter, int]:
        child_end, our_end = os.pipe()
        child_ends.callback(os.close, child_end)
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.connect_write_pipe(
            lambda: _Stdin(asyncio.StreamReader()), os.fdopen(our_end, "wb", 0)
        )

        def close() -> None:
            if not protocol.is_lost:
                transport.abort()

        self._closing.callback(close)
        return asyncio.StreamWriter(transport, protocol, None, loop), child_end

    async def _connect_output(self, child_ends: ExitStack) -> tuple[asyncio.StreamReader, int]:
        our_end, child_end = os.pipe()
        child_ends.callback(os.close, child_end)
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(our_end, "rb", 0)
        )
        self._closing.callback(transport.close)
        return reader, child_end
