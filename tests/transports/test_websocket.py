"""The WebSocket port, on both libraries, against good clients and against abusers."""

import asyncio
import gc
import logging
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from exai.core.channel import MAX_FIRST_MESSAGE_BYTES, Channel, ChannelClosed
from exai.core.config import ServerConfig
from exai.transports.websocket import WebSocketServer, choose_library
from tests.transports.raw_peer import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    frame,
    raw_peer,
    request,
)

pytestmark = pytest.mark.timeout(15)

MAX_MESSAGE_BYTES = 4_000_000


@pytest.fixture(params=["picows", "websockets"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


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


# The upgrade


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(), 101),
        (request(host="localhost:8079"), 101),
        (request(connection="keep-alive, Upgrade"), 101),
        (request(upgrade="WebSocket"), 101),
        (request("/?token=secret"), 101),
        (request(sec_websocket_protocol="exai.v1"), 101),
        (request(sec_websocket_protocol="mcp, exai.v1"), 101),
        (request(origin="https://console.example"), 101),
        (request(host="daemon.example:1"), 101),
        (request(host="evil.example"), 421),
        (request(host=None), 421),
        (request(origin="https://evil.example"), 403),
        (request(origin="null"), 403),
        (request("/elsewhere"), 404),
        (request(sec_websocket_protocol="mcp"), 400),
        (request(upgrade=None), 426),
        (request(upgrade=None, connection=None, sec_websocket_key=None), 426),
        (request(sec_websocket_key="short"), 400),
    ],
)
async def test_an_upgrade_is_let_in_or_told_why_not(library: str, sent: bytes, status: int) -> None:
    settings: dict[str, Any] = {
        "allowed_hosts": ("daemon.example",),
        "allowed_origins": ("https://console.example", "null"),
    }
    async with serving(library, **settings) as (server, _), raw_peer(server.port) as peer:
        answered, headers, body = await peer.ask(sent)
        assert answered == status
        assert "server" not in headers
        assert "sec-websocket-extensions" not in headers
        if status != 101:
            assert body.strip()
            assert headers["content-type"].startswith("text/plain")
            await peer.end()
        if status == 426:
            assert headers["upgrade"] == "websocket"


async def test_the_subprotocol_is_the_one_agreed_on(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        _, headers, _ = await peer.ask(request(sec_websocket_protocol="mcp, exai.v1"))
        assert headers["sec-websocket-protocol"] == "exai.v1"
        assert (await desk.next_channel()).subprotocol == "exai.v1"


async def test_no_token_is_read_from_the_url(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.ask(request("/?token=secret&access_token=secret"))
        assert (await desk.next_channel()).bearer_token is None


async def test_a_request_that_never_ends_is_dropped(library: str) -> None:
    async with (
        serving(library, hello_timeout_s=0.2) as (server, _),
        raw_peer(server.port) as peer,
    ):
        await peer.send(request()[:-2])
        await peer.end()


async def test_a_request_that_never_gets_to_its_end_costs_little(library: str) -> None:
    async with serving(library) as (server, _), raw_peer(server.port) as peer:
        await peer.send(b"GET / HTTP/1.1\r\n")
        with pytest.raises(ConnectionError):
            for _ in range(100_000):
                await peer.send(b"X: " + b"y" * 4000 + b"\r\n")


@pytest.mark.parametrize(
    "noise",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
        b"\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nNo colon\r\n\r\n",
        request(host="evil.example"),
        request(sec_websocket_version="12"),
        request() + frame(TEXT, b"x", rsv=7),
        request() + frame(TEXT, b"\xff"),
    ],
)
async def test_scanners_leave_nothing_in_the_log(
    library: str, noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with serving(library) as (server, desk):
        async with raw_peer(server.port) as peer:
            await peer.send(noise)
            peer.writer.write_eof()
            await peer.end()
        async with raw_peer(server.port) as peer:
            await peer.upgrade()  # and the port still serves
        desk.leave()
    assert caplog.records == []


# Frames


async def test_fragments_are_joined_and_pings_answered_in_between(library: str) -> None:
    whole = "zwölf 🥊".encode()
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        for position, byte in enumerate(whole):  # which also splits every character
            opcode = CONTINUATION if position else TEXT
            await peer.send(frame(opcode, bytes([byte]), fin=False), frame(PING, b"are you there"))
        await peer.send(frame(CONTINUATION))
        assert await (await desk.next_channel()).receive() == whole
        assert await peer.receive() == (PONG, b"are you there")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(TEXT, b"caf\xe9"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"("), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),  # a lone surrogate
        (frame(TEXT, b"x", masked=False), 1002),
        (frame(TEXT, b"x", rsv=4), 1002),
        (frame(TEXT, b"x", rsv=2), 1002),
        (frame(TEXT, b"x", rsv=1), 1002),
        (frame(3, b"x"), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(CLOSE, b"\x03"), 1002),
        (frame(CLOSE, b"\x04\x00"), 1002),  # 1024
        (frame(BINARY, b"x"), 1003),
        (frame(TEXT, b"x" * (MAX_FIRST_MESSAGE_BYTES + 1)), 1009),
    ],
)
async def test_what_breaks_the_protocol_is_told_by_a_close_code(
    library: str, sent: bytes, code: int
) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        async with asyncio.TaskGroup() as tasks:
            closed = tasks.create_task(closed_with(channel))
            await peer.send(sent)
            assert await peer.close_code() == code
            await peer.end()
        assert closed.result() == code


async def test_a_goodbye_without_a_code_is_answered_and_told_by_1005(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        async with asyncio.TaskGroup() as tasks:
            closed = tasks.create_task(closed_with(channel))
            await peer.send(frame(CLOSE))
            opcode, payload = await peer.receive()
            peer.writer.write_eof()
        assert (opcode, payload) in [(CLOSE, b""), (CLOSE, b"\x03\xe8")]
        assert closed.result() == 1005


@pytest.mark.parametrize("code", [b"\x00\x00", b"\x03\xed", b"\x03\xee", b"\x03\xf7"])
async def test_a_goodbye_with_a_code_that_may_not_be_sent_is_answered_by_1002(
    library: str, code: bytes
) -> None:
    async with serving(library) as (server, _), raw_peer(server.port) as peer:
        await peer.upgrade()
        await peer.send(frame(CLOSE, code))
        assert await peer.close_code() == 1002


async def test_a_first_message_that_announces_too_much_is_not_waited_for(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        async with asyncio.TaskGroup() as tasks:
            refused = tasks.create_task(closed_with(await desk.next_channel()))
            await peer.send(frame(TEXT, b"x" * 1_000_000, announced_bytes=MAX_MESSAGE_BYTES))
            assert await peer.close_code() == 1009
            peer.writer.close()
        assert refused.result() == 1009


async def test_peers_that_were_not_let_in_cost_little_memory(library: str) -> None:
    flood = frame(TEXT, b"x" * 2_000_000, announced_bytes=MAX_MESSAGE_BYTES)
    all_have_sent, enough = asyncio.Barrier(51), asyncio.Event()

    async def announce_much(port: int) -> None:
        async with raw_peer(port) as peer:
            await peer.upgrade()
            await peer.send(flood)
            await all_have_sent.wait()
            await enough.wait()

    async with serving(library, close_timeout_s=3.0) as (server, _), asyncio.TaskGroup() as tasks:
        before_bytes = resident_bytes()
        for _ in range(50):
            tasks.create_task(announce_much(server.port))
        await all_have_sent.wait()
        grown_bytes = resident_bytes() - before_bytes
        enough.set()
    assert grown_bytes < 40_000_000


async def test_what_follows_the_first_message_waits_for_the_verdict_on_it(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(peer.send(frame(TEXT, b"hello"), *[frame(TEXT, b"x" * 500_000)] * 4))
            channel = await desk.next_channel()
            assert await channel.receive() == b"hello"
            channel.allow_large_messages()
            for _ in range(4):
                assert len(await channel.receive()) == 500_000


async def test_a_connection_that_had_a_large_message_leaves_nothing_behind(library: str) -> None:
    large = frame(TEXT, b"x" * 10_000_000)
    async with serving(library, max_message_bytes=10_000_000) as (server, desk):
        await send_one(server, desk, frame(TEXT, b"x"))
        before_bytes = resident_bytes()
        gc.disable()  # as good as what a calm daemon's collector does
        try:
            for _ in range(8):
                await send_one(server, desk, large)
        finally:
            gc.enable()
        grown_bytes = resident_bytes() - before_bytes
    assert grown_bytes < 50_000_000


async def test_a_message_in_endless_fragments_is_refused(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        channel.allow_large_messages()
        async with asyncio.TaskGroup() as tasks:
            refused = tasks.create_task(closed_with(channel))
            await peer.send(frame(TEXT, b"x", fin=False))
            await peer.send(*[frame(CONTINUATION, fin=False)] * 5000)
            assert await peer.close_code() == 1009
        assert refused.result() == 1009


async def test_a_client_learns_why_its_message_was_refused(library: str) -> None:
    def say_too_much(port: int) -> int | None:
        with connect(f"ws://127.0.0.1:{port}", compression=None) as client:
            with pytest.raises(ConnectionClosed) as closed:
                client.send("x" * (4 * MAX_MESSAGE_BYTES))
                client.recv()
            return closed.value.rcvd.code if closed.value.rcvd else None

    async with serving(library) as (server, desk), asyncio.TaskGroup() as tasks:
        client = tasks.create_task(asyncio.to_thread(say_too_much, server.port))
        channel = await desk.next_channel()
        channel.allow_large_messages()
        assert await closed_with(channel) == 1009
        assert await client == 1009


async def test_sending_to_a_peer_that_said_nothing_and_left_is_no_defect(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send_until_closed(channel))
            await asyncio.sleep(0.1)
            peer.writer.write_eof()  # leaves, and reads on
            tasks.create_task(peer.end())
            await closed_with(channel)
        with pytest.raises(ChannelClosed):
            await channel.send(b"too late")
        await channel.close(1000, "")
        channel.abort()


async def test_a_peer_that_goes_in_the_middle_of_a_frame_is_told_by_1006(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, b"half a mess", announced_bytes=20))
        peer.writer.close()
        assert await closed_with(await desk.next_channel()) == 1006


async def test_a_peer_that_is_reset_right_after_its_message_is_missed_at_once(
    library: str,
) -> None:
    loop = asyncio.get_running_loop()
    async with serving(library, ping_interval_s=0.0) as (server, desk):
        peer = socket.socket()
        peer.setblocking(False)
        await loop.sock_connect(peer, ("127.0.0.1", server.port))
        await loop.sock_sendall(peer, request())
        assert (await loop.sock_recv(peer, 4096)).startswith(b"HTTP/1.1 101")
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.send(frame(TEXT, b"last words"))
        peer.close()  # both before the server's turn
        channel = await desk.next_channel()
        assert await channel.receive() == b"last words"
        assert await closed_with(channel) == 1006


async def test_a_peer_that_answers_no_ping_is_dropped_with_1011(library: str) -> None:
    pings = {"ping_interval_s": 0.1, "ping_timeout_s": 0.1}
    async with serving(library, **pings) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        async with asyncio.TaskGroup() as tasks:
            closed = tasks.create_task(closed_with(channel))
            assert (await peer.receive())[0] == PING
            assert await peer.close_code() == 1011
        assert closed.result() == 1011


async def test_a_peer_that_answers_pings_stays(library: str) -> None:
    pings = {"ping_interval_s": 0.05, "ping_timeout_s": 0.5}
    async with serving(library, **pings) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        for _ in range(4):
            opcode, payload = await peer.receive()
            assert opcode == PING
            await peer.send(frame(PONG, payload))
        await peer.send(frame(TEXT, b"still here"))
        assert await (await desk.next_channel()).receive() == b"still here"


async def test_whoever_reads_nothing_cannot_stay_by_saying_goodbye(library: str) -> None:
    async with serving(library) as (server, desk), raw_peer(server.port) as peer:
        await peer.upgrade()
        channel = await desk.next_channel()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(send_until_closed(channel))
            await asyncio.sleep(0.1)
            await peer.send(frame(CLOSE, b"\x03\xe8"))
            async with asyncio.timeout(3.0):
                await closed_with(channel)


async def test_others_are_served_while_one_peer_never_reads(library: str) -> None:
    async with (
        serving(library) as (server, desk),
        raw_peer(server.port) as deaf,
        raw_peer(server.port) as other,
    ):
        await deaf.upgrade()
        unread = await desk.next_channel()
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(send_until_closed(unread))
            await other.upgrade()
            channel = await desk.next_channel()
            for _ in range(20):
                await other.send(frame(TEXT, b"ping"))
                assert await channel.receive() == b"ping"
                await channel.send(b"pong")
                assert await other.receive() == (TEXT, b"pong")
            assert not sender.done()
            unread.abort()


# The life of the server


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


async def send_until_closed(channel: Channel) -> None:
    with pytest.raises(ChannelClosed):
        while True:
            await channel.send(b"x" * 65_536)
