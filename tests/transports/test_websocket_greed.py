"""What greedy peers can make the WebSocket port keep, on both libraries: little."""

import asyncio
import resource
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from exai.testing.raw_peer import PING, PONG, TEXT, RawPeer, frame, raw_peer
from exai.transports import reading
from exai.transports.reading import DiscardPace
from tests.transports.websocket_desk import resident_bytes, serving

pytestmark = pytest.mark.timeout(20)
MIB = 2**20
CROWD = 1000


async def is_read_on(peer: RawPeer, flood: bytes) -> bool:
    """Send, and tell whether all of it was read in next to no time."""
    async with asyncio.TaskGroup() as tasks:
        sending = tasks.create_task(peer.send(flood))
        await asyncio.wait([sending], timeout=0.5)
        sending.cancel()
    return not sending.cancelled()


async def test_who_reads_no_pongs_is_owed_only_the_latest(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_REST_S", 0.0)  # or it would take long to send so much
    ping = frame(PING, b"x" * 125)
    async with (
        serving(library, ping_interval_s=0.0) as (server, desk),
        raw_peer(server.port) as peer,
    ):
        await peer.upgrade()
        (await desk.next_channel()).allow_large_messages()
        before_bytes = resident_bytes()
        for _ in range(20):
            await peer.send(ping * 8000)
        await peer.send(frame(PING, b"the latest"))
        grown_bytes = resident_bytes() - before_bytes
        payload = b""
        while payload != b"the latest":
            opcode, payload = await peer.receive()
            assert opcode == PONG
    assert grown_bytes < 10_000_000


async def test_who_sent_much_before_it_was_let_in_is_not_read_on_for_that(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, b"hello") + frame(TEXT, b"x" * 1000) * 20)
        channel = await desk.next_channel()
        assert await channel.receive() == b"hello"
        channel.allow_large_messages()
        assert not await is_read_on(peer, frame(TEXT, b"x" * 1000) * 30_000)
        for _ in range(1000):
            assert len(await channel.receive()) == 1000


def test_whoever_is_sent_away_is_read_on_at_one_pace_for_all() -> None:
    pace = DiscardPace()
    assert [pace.wait_s(100.0) for _ in range(3)] == pytest.approx([0.001, 0.002, 0.003])
    assert pace.wait_s(200.0) == pytest.approx(0.001)


@pytest.mark.slow
async def test_a_thousand_peers_that_announce_much_pin_little(library: str) -> None:
    wanted = CROWD + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    script = f"""
import asyncio, resource, uvloop
from exai.core.config import ServerConfig
from exai.transports.websocket import WebSocketServer
async def main():
    config = ServerConfig(port=0, websocket_library={library!r}, close_timeout_s=15.0)
    async with WebSocketServer(config, lambda channel: channel.receive()) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()
uvloop.run(main())
"""
    flood = frame(TEXT, b"x" * MIB, announced_bytes=32 * MIB)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=subprocess.PIPE
    )

    async def send_until_refused(peer: RawPeer) -> None:
        await peer.upgrade()
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(_send_on(peer, flood))
            assert await peer.close_code() == 1009
            sending.cancel()

    try:
        assert process.stdout is not None
        async with asyncio.timeout(18), AsyncExitStack() as stack:
            port = int(await process.stdout.readline())
            before_bytes = _peak_bytes(process.pid)
            crowd = [await stack.enter_async_context(raw_peer(port)) for _ in range(CROWD)]
            async with asyncio.TaskGroup() as tasks:
                for peer in crowd:
                    tasks.create_task(send_until_refused(peer))
            grown_bytes = _peak_bytes(process.pid) - before_bytes
    finally:
        process.kill()
        await process.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert grown_bytes < CROWD * 200_000


async def _send_on(peer: RawPeer, flood: bytes) -> None:
    with suppress(ConnectionError):
        for position in range(0, len(flood), 65_536):
            await peer.send(flood[position : position + 65_536])


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
