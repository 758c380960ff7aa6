"""The life of the WebSocket port: opening, serving, closing, on both libraries."""

import asyncio
import os
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from exai.core.channel import Channel
from exai.core.config import ServerConfig
from exai.testing.raw_peer import (
    TEXT,
    frame,
    raw_peer,
    request,
)
from exai.transports.websocket import WebSocketServer, choose_library
from tests.processes.process_tree import until
from tests.transports.websocket_desk import (
    Desk,
    can_upgrade,
    run_python,
    serving,
)

pytestmark = pytest.mark.timeout(15)


async def test_a_connection_is_closed_when_its_server_is_done(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        await desk.next_channel()
        desk.leave()
        assert await peer.close_code() == 1000


async def test_a_defect_closes_with_1011_and_leaves_a_traceback(
    library: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(channel: Channel) -> None:
        await channel.receive()
        raise ZeroDivisionError("a defect")

    config = ServerConfig(port=0, websocket_library=library)  # type: ignore[arg-type]
    async with WebSocketServer(config, break_down) as server, raw_peer(server.port) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, b"go"))
        assert await peer.close_code() == 1011
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_no_new_connections_are_taken_while_old_ones_go_on(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        server.stop_accepting()
        with suppress(ConnectionError):  # unless it was in the kernel's queue already
            async with raw_peer(server.port) as late:
                status, _, _ = await late.ask(request())
                assert status == 503
        await peer.send(frame(TEXT, b"still here"))
        assert await channel.receive() == b"still here"


async def test_closing_tells_every_peer_to_come_back(library: str) -> None:
    async with serving(library) as (server, _), raw_peer(server.port) as peer:
        await peer.upgrade()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.close())
            assert await peer.close_code() == 1012
            peer.writer.close()


async def test_closing_ends_whoever_goes_on_serving(library: str) -> None:
    ended = asyncio.Event()

    async def never_end(channel: Channel) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    config = ServerConfig(port=0, websocket_library=library, close_timeout_s=0.2)  # type: ignore[arg-type]
    async with WebSocketServer(config, never_end) as server, raw_peer(server.port) as peer:
        await peer.upgrade()
        async with asyncio.timeout(2.0):
            await server.close()
    assert ended.is_set()


async def test_an_inherited_socket_is_served(library: str) -> None:
    inherited = socket.create_server(("127.0.0.1", 0))
    port = inherited.getsockname()[1]
    desk = Desk()
    config = ServerConfig(port=1, websocket_library=library)  # type: ignore[arg-type]
    server = WebSocketServer(config, desk.serve)
    await server.open(inherited)
    async with raw_peer(port) as peer:
        await peer.upgrade()
        assert server.port == port
        desk.leave()
    await server.close()


async def test_a_port_in_use_is_an_error_that_names_it(library: str) -> None:
    async with serving(library) as (server, _):
        config = ServerConfig(port=server.port, websocket_library=library)  # type: ignore[arg-type]
        with pytest.raises(OSError, match=str(server.port)):
            await WebSocketServer(config, Desk().serve).open()


async def test_whoever_comes_when_descriptors_have_run_out_is_turned_away(
    library: str, tmp_path: Path
) -> None:
    script = f"""
import asyncio, resource
from exai.core.config import ServerConfig
from exai.observe.logs import configure_logging
from exai.transports.websocket import WebSocketServer
async def main():
    config = ServerConfig(port=0, websocket_library={library!r})
    async with WebSocketServer(config, lambda channel: channel.receive()) as server:
        print(server.port, flush=True)
        await asyncio.Event().wait()
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
with configure_logging("info"):
    asyncio.run(main())
"""
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, stdout=subprocess.PIPE, stderr=stderr
        )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(10):
            port = int(await process.stdout.readline())
            async with AsyncExitStack() as crowd, asyncio.TaskGroup() as tasks:
                peers = [await crowd.enter_async_context(raw_peer(port)) for _ in range(60)]
                ends = [tasks.create_task(peer.end()) for peer in peers]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in ends:
                    end.cancel()
            while not await can_upgrade(port):
                pass
            await until(lambda: os.path.getsize(log) > 0)  # a thread of its own writes it
    finally:
        process.kill()
        await process.wait()
    lines = log.read_text().splitlines()
    assert 1 <= len(lines) <= 5  # one each time the shortage begins
    assert all("out of file descriptors" in line for line in lines)


@pytest.mark.parametrize(
    ("wanted", "address", "chosen"),
    [
        ("auto", "127.0.0.1", "picows"),
        ("auto", "::1", "picows"),
        ("auto", "0.0.0.0", "websockets"),
        ("auto", "192.0.2.7", "websockets"),
        ("websockets", "127.0.0.1", "websockets"),
        ("picows", "0.0.0.0", "picows"),
    ],
)
def test_the_fast_library_serves_only_where_no_network_is(
    wanted: Any, address: str, chosen: str
) -> None:
    assert choose_library(wanted, address) == chosen


def test_what_is_encrypted_is_served_by_the_library_that_was_tried_so() -> None:
    assert choose_library("auto", "127.0.0.1", has_tls=True) == "websockets"


def test_only_the_chosen_library_is_imported(library: str) -> None:
    script = f"""
import asyncio, sys
from exai.core.config import ServerConfig
from exai.transports.websocket import WebSocketServer
async def main():
    async with WebSocketServer(ServerConfig(port=0, websocket_library={library!r}), None): pass
asyncio.run(main())
print("picows" in sys.modules, "websockets" in sys.modules)
"""
    assert run_python(script).split() == [str(library == "picows"), str(library == "websockets")]
