"""A WebSocket port whose connections a test serves by hand, and ways to look at it."""

import asyncio
import resource
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from exai.core.channel import Channel, ChannelClosed
from exai.core.config import ServerConfig
from exai.testing.raw_peer import (
    raw_peer,
)
from exai.transports.websocket import WebSocketServer

MAX_MESSAGE_BYTES = 4_000_000


class Desk:
    """Serves channels by keeping them; a test does the rest."""

    def __init__(self) -> None:
        self._channels: asyncio.Queue[Channel] = asyncio.Queue()
        self._going = asyncio.Event()

    async def serve(self, channel: Channel) -> None:
        await self._channels.put(channel)
        await self._going.wait()

    async def next_channel(self) -> Channel:
        return await self._channels.get()

    def leave(self) -> None:
        self._going.set()


@asynccontextmanager
async def serving(library: str, **settings: Any) -> AsyncIterator[tuple[WebSocketServer, Desk]]:
    config = {
        "port": 0,
        "websocket_library": library,
        "max_message_bytes": MAX_MESSAGE_BYTES,
        "close_timeout_s": 0.3,
        **settings,
    }
    desk = Desk()
    # pytest's own time-out is not heard inside uvloop.
    async with asyncio.timeout(10), WebSocketServer(ServerConfig(**config), desk.serve) as server:
        yield server, desk
        desk.leave()


async def closed_with(channel: Channel) -> int:
    with pytest.raises(ChannelClosed) as closed:
        await channel.receive()
    return closed.value.code


async def send_one(server: WebSocketServer, desk: Desk, sent: bytes) -> None:
    async with raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        channel.allow_large_messages()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(peer.send(sent))
            await channel.receive()
    await closed_with(channel)


async def can_upgrade(port: int) -> bool:
    try:
        async with raw_peer(port) as peer:
            await peer.upgrade()
    except (ConnectionError, EOFError):
        return False
    return True


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def run_python(script: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=15, check=True
    ).stdout


async def send_until_closed(channel: Channel, stuck: asyncio.Event | None = None) -> None:
    """Send on and on; `stuck` is set once a message has waited a while for its peer to read."""
    with pytest.raises(ChannelClosed):
        while True:
            sending = asyncio.ensure_future(channel.send(b"x" * 65_536))
            await asyncio.wait([sending], timeout=0.05)
            if stuck is not None and not sending.done():
                stuck.set()
            await sending


async def stuck_sending(channel: Channel, tasks: asyncio.TaskGroup) -> None:
    """Begin to send to a peer that does not read, and wait until nothing more goes out."""
    stuck = asyncio.Event()
    tasks.create_task(send_until_closed(channel, stuck))
    await stuck.wait()
