"""Slow, silent, greedy and broken peers: each ends in bounded time, and others are served."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from exai.core.config import LimitsConfig, RatesConfig, ServerConfig
from exai.core.events import SessionDetached
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.fault_proxy import FaultProxy
from exai.testing.raw_peer import (
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawPeer,
    frame,
    raw_peer,
    request,
    said,
)
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import ScriptedTool
from tests.journeys.watched_loop import watched_loop
from tests.journeys.wire import Frame, open_wire

PATIENCE_S = 4.0
QUICK = {"hello_timeout_s": 0.2, "ping_interval_s": 0.2, "ping_timeout_s": 0.2}
LARGE_BYTES = 1_000_000


@pytest.fixture(params=["picows", "websockets"])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server_settings() -> dict[str, Any]:
    return QUICK


@pytest.fixture
async def daemon(
    library: str, server_settings: dict[str, Any], tmp_path: Path
) -> AsyncIterator[RunningDaemon]:
    async def large(arguments: dict[str, Any], run: ToolRun) -> Completed:
        return Completed([text_block("x" * LARGE_BYTES)])

    settings: dict[str, Any] = {
        "websocket_library": library,
        "close_timeout_s": 0.2,
        "drain_s": 0.0,
    }
    config = daemon_config(
        tmp_path,
        server=ServerConfig(**(settings | server_settings)),
        rates=RatesConfig(principal_per_s=0),
        limits=LimitsConfig(session_max_unacked_bytes=100 * LARGE_BYTES),
    )
    async with running_daemon(config, [ScriptedTool("large", large)]) as running:
        yield running


def port_of(daemon: RunningDaemon) -> int:
    port = urlsplit(daemon.url).port
    assert port is not None
    return port


async def trickle(peer: RawPeer, sent: bytes) -> None:
    """Send a byte at a time, until the other side has had enough."""
    with suppress(ConnectionError):
        for n in range(len(sent)):
            await peer.send(sent[n : n + 1])
            await asyncio.sleep(0.02)


async def is_served(daemon: RunningDaemon) -> bool:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        return bool((await wire.call("echo", arguments={"text": "x"}))["ok"])


async def resumed(daemon: RunningDaemon, ack: Frame) -> Frame:
    """Come back to a session over a connection of good manners, and return the greeting."""
    key = {name: ack[name] for name in ("session_id", "resume_token")}
    async with open_wire(daemon.url, greet=False) as wire:
        return await wire.hello(token=TOKEN, resume=key)


@pytest.mark.parametrize("sent", [b"", request()[:40]], ids=["nothing", "half an upgrade"])
async def test_who_says_too_little_is_dropped(daemon: RunningDaemon, sent: bytes) -> None:
    async with asyncio.timeout(PATIENCE_S), raw_peer(port_of(daemon)) as peer:
        await peer.send(sent)
        await peer.end()


async def test_an_upgrade_that_comes_byte_by_byte_is_dropped(daemon: RunningDaemon) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        raw_peer(port_of(daemon)) as peer,
        asyncio.TaskGroup() as tasks,
    ):
        trickling = tasks.create_task(trickle(peer, request()))
        await peer.end()
        trickling.cancel()


@pytest.mark.parametrize("server_settings", [{"hello_timeout_s": 0.2}], ids=[""])
@pytest.mark.parametrize("sent", [b"", said("hello", token=TOKEN)], ids=["none", "byte by byte"])
async def test_a_hello_that_does_not_come_in_time_is_told(
    daemon: RunningDaemon, sent: bytes
) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        raw_peer(port_of(daemon)) as peer,
        asyncio.TaskGroup() as tasks,
    ):
        await peer.upgrade()
        trickling = tasks.create_task(trickle(peer, sent))
        assert await peer.close_code() == 4002
        trickling.cancel()
        await peer.end()


async def test_a_frame_that_comes_byte_by_byte_leaves_no_room_for_pongs(
    daemon: RunningDaemon,
) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        raw_peer(port_of(daemon)) as peer,
        asyncio.TaskGroup() as tasks,
    ):
        ack = await peer.hello(token=TOKEN)
        slow = frame(TEXT, b"x" * 1000, announced_bytes=32_000_000)
        trickling = tasks.create_task(trickle(peer, slow))
        assert (await peer.receive())[0] == PING
        assert await peer.close_code() == 1011
        trickling.cancel()
        await daemon.events.first_of(SessionDetached)
        assert (await resumed(daemon, ack))["resumed"]


async def test_a_message_in_slow_fragments_goes_on_while_pings_are_answered(
    daemon: RunningDaemon,
) -> None:
    async with asyncio.timeout(PATIENCE_S), raw_peer(port_of(daemon)) as peer:
        await peer.hello(token=TOKEN)
        whole = json.dumps({"op": "list_tools", "request_id": "r1"}).encode()
        await peer.send(frame(TEXT, whole[:1], fin=False))
        for n in range(1, 5):
            opcode, payload = await peer.receive()
            assert opcode == PING
            await peer.send(frame(PONG, payload), frame(CONTINUATION, whole[n : n + 1], fin=False))
        await peer.send(frame(CONTINUATION, whole[5:]))
        assert (await peer.hear())["request_id"] == "r1"


async def test_who_answers_no_ping_is_dropped_and_can_come_back(daemon: RunningDaemon) -> None:
    async with asyncio.timeout(PATIENCE_S), raw_peer(port_of(daemon)) as peer:
        ack = await peer.hello(token=TOKEN)
        assert (await peer.receive())[0] == PING
        assert await peer.close_code() == 1011
        await daemon.events.first_of(SessionDetached)
        assert (await resumed(daemon, ack))["resumed"]


async def test_a_link_that_is_half_open_is_noticed(daemon: RunningDaemon) -> None:
    async with (
        asyncio.timeout(PATIENCE_S),
        FaultProxy(port_of(daemon)) as proxy,
        open_wire(f"ws://127.0.0.1:{proxy.port}/", greet=False, says_bye=False) as wire,
    ):
        ack = await wire.hello(token=TOKEN)
        proxy.stall()
        await daemon.events.first_of(SessionDetached)
        assert (await resumed(daemon, ack))["resumed"]
        proxy.reset()


@pytest.mark.parametrize("server_settings", [{"slow_consumer_s": 0.3}], ids=[""])
async def test_who_does_not_read_its_results_is_cut_off_and_can_have_them_later(
    daemon: RunningDaemon,
) -> None:
    async with asyncio.timeout(PATIENCE_S), raw_peer(port_of(daemon)) as peer:
        ack = await peer.hello(token=TOKEN, acks=True)
        await peer.send(*(said("call_tool", name="large", request_id=f"r{n}") for n in range(20)))
        detached = await daemon.events.first_of(SessionDetached)
        assert detached.reason == "slow consumer"
        assert await is_served(daemon)
        await peer.end()  # which it could read by now, but nothing of it would be new
        key = {name: ack[name] for name in ("session_id", "resume_token")}
        async with open_wire(daemon.url, greet=False) as wire:
            again = await wire.hello(token=TOKEN, acks=True, resume=key)
            assert again["resumed"]
            assert len(again["pending"]) == 20
            for request_id in again["pending"]:
                assert len((await wire.result(request_id))["text"]) == LARGE_BYTES


@pytest.mark.parametrize("server_settings", [{"max_connections": 1}], ids=[""])
async def test_a_crowd_over_the_limit_is_told_while_who_is_in_is_served(
    daemon: RunningDaemon,
) -> None:
    async with AsyncExitStack() as stack, open_wire(daemon.url, token=TOKEN) as wire:
        crowd = [await stack.enter_async_context(raw_peer(port_of(daemon))) for _ in range(50)]
        for peer in crowd:
            await peer.upgrade()
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
        async with asyncio.timeout(PATIENCE_S):
            for peer in crowd:
                assert await peer.close_code() == 1013
                await peer.end()


@pytest.mark.parametrize("server_settings", [{}], ids=[""])
@pytest.mark.parametrize(
    "flood",
    [
        frame(PING) * 15_000,
        frame(PONG) * 15_000,
        frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * 4000,
        frame(TEXT) * 15_000,
    ],
    ids=["pings", "pongs", "empty fragments", "empty messages"],
)
async def test_a_flood_of_next_to_nothing_does_not_hold_the_loop(
    daemon: RunningDaemon, flood: bytes
) -> None:
    async with raw_peer(port_of(daemon)) as peer, asyncio.TaskGroup() as tasks:
        await peer.hello(token=TOKEN)
        async with watched_loop() as turns:
            flooding = tasks.create_task(peer.send(flood))
            hearing = tasks.create_task(peer.end())
            for _ in range(5):
                assert await is_served(daemon)
        flooding.cancel()
        hearing.cancel()
    assert turns.longest_s < 0.06
