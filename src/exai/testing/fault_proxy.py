"""A TCP proxy on loopback that does to connections what networks do: cuts, stalls, delays.

async with FaultProxy(port_of_the_daemon) as proxy:
    ...                         # connect to proxy.port
    proxy.reset()               # every connection ends with a reset
    proxy.stall()               # nothing passes any more, and nobody is told
"""

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65_536
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class _Pipe:
    """One connection through the proxy, both ways."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.flows = asyncio.Event()
        self.flows.set()
        self.is_over = False
        self._ends = (near, far)

    def cut(self) -> None:
        """End both sides; what was on its way is lost, and no close frame is said."""
        self._end()
        for end in self._ends:
            end.close()

    def reset(self) -> None:
        """End both sides with a TCP reset."""
        self._end()
        for end in self._ends:
            raw: socket.socket | None = end.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:  # it may have ended by itself
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            end.transport.abort()

    def _end(self) -> None:
        self.is_over = True
        self.flows.set()


class FaultProxy:
    """Forwards to `target_port` on loopback, until told otherwise.

    `delay_s` is added to each piece; while `is_refusing`, whoever connects is dropped.
    """

    port: int

    def __init__(self, target_port: int) -> None:
        self.delay_s = 0.0
        self.connection_count = 0
        self.is_refusing = False
        self.target_port = target_port
        self._pipes: set[_Pipe] = set()
        self._tasks = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Listen on a port of its own."""
        await self._tasks.__aenter__()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        self.reset()
        await self._tasks.__aexit__(kind, error, trace)

    def cut(self) -> None:
        """End every connection; what was on its way is lost."""
        for pipe in list(self._pipes):
            pipe.cut()

    def reset(self) -> None:
        """End every connection with a reset."""
        for pipe in list(self._pipes):
            pipe.reset()

    def stall(self) -> None:
        """Let nothing pass on the present connections any more: each side waits for the other."""
        for pipe in self._pipes:
            pipe.flows.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_refusing:
            writer.transport.abort()
            return
        self.connection_count += 1
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            return
        pipe = _Pipe(writer, far_writer)
        self._pipes.add(pipe)
        self._tasks.create_task(self._pump(pipe, reader, far_writer))
        self._tasks.create_task(self._pump(pipe, far_reader, writer))

    async def _pump(
        self, pipe: _Pipe, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                await pipe.flows.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                if pipe.is_over:
                    break
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            pipe.cut()
            self._pipes.discard(pipe)
