"""Messages on the WebSocket port, on both libraries, of good clients and of abusers."""

import asyncio
import gc
import socket
import struct

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from exai.core.channel import MAX_FIRST_MESSAGE_BYTES, ChannelClosed
from exai.testing.raw_peer import (
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
from tests.transports.websocket_desk import (
    MAX_MESSAGE_BYTES,
    closed_with,
    resident_bytes,
    send_one,
    send_until_closed,
    serving,
    stuck_sending,
)

pytestmark = pytest.mark.timeout(15)


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
        (frame(PING, b"x", rsv=4), 1002),
        (frame(PING, b"x", rsv=1), 1002),
        (frame(PONG, b"x", rsv=4), 1002),
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


@pytest.mark.parametrize(
    "goodbye",
    [
        *[frame(CLOSE, code.to_bytes(2)) for code in (0, 1005, 1006, 1015, 5000)],
        frame(CLOSE, b"\x03\xe8", rsv=4),
    ],
)
async def test_a_goodbye_that_may_not_be_sent_is_answered_by_1002(
    library: str, goodbye: bytes
) -> None:
    async with serving(library) as (server, _), raw_peer(server.port) as peer:
        await peer.upgrade()
        await peer.send(goodbye)
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

    async with (
        serving(library, close_timeout_s=5.0) as (server, desk),
        asyncio.TaskGroup() as tasks,
    ):
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
            await stuck_sending(channel, tasks)
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
            await stuck_sending(channel, tasks)
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
