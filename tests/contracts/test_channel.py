"""Every channel keeps the same promises, over memory and over both WebSocket libraries."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Protocol

import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from exai.core.channel import MAX_FIRST_MESSAGE_BYTES, Channel, ChannelClosed
from exai.core.config import ServerConfig
from exai.testing.memory_channel import memory_channel_pair
from exai.transports.websocket import WebSocketServer

MAX_MESSAGE_BYTES = 1_000_000
PIECE = b"x" * 65_536

pytestmark = pytest.mark.timeout(15)


class Peer(Protocol):
    """The other end of a channel."""

    async def send_text(self, message: str) -> None: ...
    async def send_binary(self, message: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    async def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...


class SocketPeer:
    """The other end of a WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send_text(self, message: str) -> None:
        await self._connection.send(message)

    async def send_binary(self, message: bytes) -> None:
        await self._connection.send(message)

    async def receive(self) -> bytes:
        try:
            return await self._connection.recv(decode=False)
        except ConnectionClosed as closed:
            said = closed.rcvd
            raise (
                ChannelClosed(said.code, said.reason) if said else ChannelClosed(1006, "")
            ) from None

    async def close(self, code: int, reason: str) -> None:
        await self._connection.close(code, reason)

    def abort(self) -> None:
        self._connection.transport.abort()


@asynccontextmanager
async def memory() -> AsyncIterator[tuple[Channel, Peer]]:
    channel, peer = memory_channel_pair(
        subprotocol="exai.v1", bearer_token="sesame", max_message_bytes=MAX_MESSAGE_BYTES
    )
    yield channel, peer


@asynccontextmanager
async def over_socket(library: Any) -> AsyncIterator[tuple[Channel, Peer]]:
    opened: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()
    done = asyncio.Event()

    async def hand_out(channel: Channel) -> None:
        opened.set_result(channel)
        await done.wait()

    config = ServerConfig(
        port=0,
        websocket_library=library,
        max_message_bytes=MAX_MESSAGE_BYTES,
        close_timeout_s=0.5,
    )
    async with (
        WebSocketServer(config, hand_out) as server,
        connect(
            f"ws://127.0.0.1:{server.port}",
            subprotocols=["exai.v1"],  # type: ignore[list-item]
            additional_headers={"Authorization": "Bearer sesame"},
            compression=None,
            max_queue=1,
            close_timeout=0.1,
        ) as connection,
    ):
        yield await opened, SocketPeer(connection)
        done.set()


@pytest.fixture(params=["memory", "picows", "websockets"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Channel, Peer]]:
    carrier = memory() if request.param == "memory" else over_socket(request.param)
    async with carrier as pair:
        yield pair


Ends = tuple[Channel, Peer]


async def test_messages_arrive_in_order_as_their_utf8_bytes(ends: Ends) -> None:
    channel, peer = ends
    for text in ("first", "", "zwölf Boxkämpfer 🥊"):
        await peer.send_text(text)
    assert [await channel.receive() for _ in range(3)] == [
        b"first",
        b"",
        "zwölf Boxkämpfer 🥊".encode(),
    ]


async def test_what_is_sent_arrives_in_order(ends: Ends) -> None:
    channel, peer = ends
    for text in (b"first", b"", "zwölf 🥊".encode()):
        await channel.send(text)
    assert [await peer.receive() for _ in range(3)] == [b"first", b"", "zwölf 🥊".encode()]


async def test_it_knows_who_is_there_and_what_was_agreed(ends: Ends) -> None:
    channel, _ = ends
    assert (channel.remote_address, channel.subprotocol) == ("127.0.0.1", "exai.v1")
    assert channel.bearer_token == "sesame"


async def test_a_binary_message_closes_it_with_1003(ends: Ends) -> None:
    channel, peer = ends
    await peer.send_binary(b"\x00")
    with pytest.raises(ChannelClosed) as closed:
        await channel.receive()
    assert closed.value.code == 1003
    assert await code_seen_by(peer) == 1003


async def test_the_peers_goodbye_comes_after_what_it_said(ends: Ends) -> None:
    channel, peer = ends
    await peer.send_text("last words")
    await peer.close(4321, "enough")
    assert await channel.receive() == b"last words"
    for _ in range(2):
        with pytest.raises(ChannelClosed) as closed:
            await channel.receive()
        assert (closed.value.code, closed.value.reason) == (4321, "enough")
    with pytest.raises(ChannelClosed):
        await channel.send(b"too late")


async def test_the_daemons_goodbye_comes_after_what_it_said(ends: Ends) -> None:
    channel, peer = ends
    await channel.send(b"last words")
    await asyncio.gather(channel.close(4003, "unauthorized"), read_to_the_end(peer))
    with pytest.raises(ChannelClosed) as closed:
        await channel.receive()
    assert (closed.value.code, closed.value.reason) == (4003, "unauthorized")
    await channel.close(1000, "again")  # harmless


async def test_a_peer_that_vanishes_is_told_by_1006(ends: Ends) -> None:
    channel, peer = ends
    peer.abort()
    with pytest.raises(ChannelClosed) as closed:
        await channel.receive()
    assert closed.value.code == 1006


async def test_abort_drops_the_connection_without_a_goodbye(ends: Ends) -> None:
    channel, peer = ends
    channel.abort()
    assert await code_seen_by(peer) == 1006
    with pytest.raises(ChannelClosed):
        await channel.receive()


async def test_a_waiting_reader_is_woken_by_abort(ends: Ends) -> None:
    channel, _ = ends
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(expect_closed(channel))
        await asyncio.sleep(0)
        channel.abort()
    assert reader.result() == 1006


async def test_a_cancelled_receive_loses_nothing(ends: Ends) -> None:
    channel, peer = ends
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await channel.receive()
    await peer.send_text("still here")
    assert await channel.receive() == b"still here"


async def test_the_first_message_may_be_64_kib_long(ends: Ends) -> None:
    channel, peer = ends
    await peer.send_text("x" * MAX_FIRST_MESSAGE_BYTES)
    assert len(await channel.receive()) == MAX_FIRST_MESSAGE_BYTES


async def test_a_longer_first_message_closes_it_with_1009(ends: Ends) -> None:
    channel, peer = ends
    await peer.send_text("x" * (MAX_FIRST_MESSAGE_BYTES + 1))
    assert await expect_closed(channel) == 1009
    assert await code_seen_by(peer) == 1009


async def test_large_messages_pass_once_they_are_allowed(ends: Ends) -> None:
    channel, peer = ends
    await peer.send_text("hello")
    await channel.receive()
    channel.allow_large_messages()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(peer.send_text("x" * MAX_MESSAGE_BYTES))
        assert len(await channel.receive()) == MAX_MESSAGE_BYTES


async def test_a_message_over_the_limit_closes_it_with_1009(ends: Ends) -> None:
    channel, peer = ends
    channel.allow_large_messages()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(peer.send_text("x" * (MAX_MESSAGE_BYTES + 1)))
        assert await expect_closed(channel) == 1009


async def test_send_waits_for_a_slow_peer_and_goes_on_when_it_reads(ends: Ends) -> None:
    channel, peer = ends
    sent_count = 0

    async def send_much() -> None:
        nonlocal sent_count
        for _ in range(512):
            await channel.send(PIECE)
            sent_count += 1

    async with asyncio.TaskGroup() as tasks:
        sender = tasks.create_task(send_much())
        seen_count = -1
        while seen_count < sent_count:  # until a while passes in which nothing is taken
            seen_count = sent_count
            await asyncio.wait([sender], timeout=0.2)
        assert sent_count < 400
        for _ in range(512):
            assert await peer.receive() == PIECE
    assert sent_count == 512


async def test_messages_of_all_sizes_reach_a_slow_peer_whole(ends: Ends) -> None:
    await send_all_sizes_to_a_slow_peer(ends)


@pytest.mark.parametrize("library", ["picows", "websockets"])
def test_so_they_do_on_uvloop(library: str) -> None:
    async def run() -> None:
        async with over_socket(library) as ends:
            await send_all_sizes_to_a_slow_peer(ends)

    uvloop.run(run())


async def send_all_sizes_to_a_slow_peer(ends: Ends) -> None:
    channel, peer = ends
    messages = [b"%d " % n + b"x" * (200, 60_000, 300)[n % 3] for n in range(900)]

    async def send_all() -> None:
        for message in messages:
            if channel.is_ready:
                channel.send_at_once([message])
            else:
                await channel.send(message)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(send_all())
        while channel.is_ready:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0)
        for message in messages:
            assert await peer.receive() == message


async def test_abort_frees_a_sender_whose_peer_never_reads(ends: Ends) -> None:
    channel, _ = ends
    async with asyncio.TaskGroup() as tasks:
        sender = tasks.create_task(send_until_closed(channel))
        await asyncio.wait([sender], timeout=0.2)
        assert not sender.done()
        channel.abort()
    assert sender.result() == 1006


async def test_close_returns_though_the_peer_never_reads(ends: Ends) -> None:
    channel, _ = ends
    async with asyncio.TaskGroup() as tasks:
        sender = tasks.create_task(send_until_closed(channel))
        await asyncio.wait([sender], timeout=0.2)
        assert not sender.done()
        async with asyncio.timeout(3.0):
            await channel.close(4005, "slow consumer")
    assert sender.done()


async def send_until_closed(channel: Channel) -> int:
    try:
        while True:
            await channel.send(PIECE)
    except ChannelClosed as closed:
        return closed.code


async def expect_closed(channel: Channel) -> int:
    with pytest.raises(ChannelClosed) as closed:
        await channel.receive()
    return closed.value.code


async def code_seen_by(peer: Peer) -> int:
    with pytest.raises(ChannelClosed) as closed:
        await peer.receive()
    return closed.value.code


async def read_to_the_end(peer: Peer) -> None:
    assert await peer.receive() == b"last words"
    with pytest.raises(ChannelClosed) as closed:
        await peer.receive()
    assert (closed.value.code, closed.value.reason) == (4003, "unauthorized")
