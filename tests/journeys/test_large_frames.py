"""Frames that are large or many cost their own connection time, and nobody else."""

import json
from pathlib import Path

import pytest

from exai.core.config import ServerConfig
from exai.testing.running_daemon import TOKEN, daemon_config, running_daemon
from tests.journeys.watched_loop import watched_loop
from tests.journeys.wire import open_wire

MIB = 2**20
COSTLY = {
    "brackets": b'{"op":"health","x":[' + b"[]," * (8 * MIB // 3) + b"[]]}",
    "digits in text": b'{"op":"health","x":"' + (b"1" * 400 + b"a") * (8 * MIB // 401) + b'"}',
    "short strings": b'{"op":"health","x":[' + b'"a",' * (2 * MIB) + b'"a"]}',
    "depth": b"[" * (8 * MIB),
}


@pytest.mark.parametrize("frame", COSTLY.values(), ids=COSTLY)
async def test_a_costly_frame_does_not_hold_the_loop(tmp_path: Path, frame: bytes) -> None:
    async with (
        running_daemon(daemon_config(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
        watched_loop() as turns,
    ):
        await wire.socket.send(frame.decode())
        assert (await wire.hear())["op"] in ("error", "health_res")
    assert turns.longest_s < 0.25


async def test_too_many_values_are_malformed(tmp_path: Path) -> None:
    async with (
        running_daemon(daemon_config(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("health", x=[0] * 100_001)
        error = (await wire.hear())["error"]
        assert error["code"] == "PROTOCOL_ERROR"
        assert "100,000 values" in error["message"]
        await wire.say("health", x=[0] * 99_000)
        assert (await wire.hear())["op"] == "health_res"


async def test_the_largest_frame_is_taken_and_one_byte_more_is_not(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, server=ServerConfig(max_message_bytes=MIB))
    frame = {"op": "call_tool", "name": "echo", "request_id": "r1", "arguments": {"text": ""}}
    frame["arguments"] = {"text": "x" * (MIB - len(json.dumps(frame)))}
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        await wire.socket.send(json.dumps(frame))
        assert (await wire.result())["ok"]
        await wire.socket.send(json.dumps(frame) + " ")
        assert (await wire.closed())[0] == 1009


@pytest.mark.parametrize("library", ["picows", "websockets"])
async def test_a_flood_of_small_frames_lets_others_have_their_turn(
    tmp_path: Path, library: str
) -> None:
    server = ServerConfig(websocket_library=library)  # type: ignore[arg-type]
    async with (
        running_daemon(daemon_config(tmp_path, server=server)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        flood = [json.dumps({"op": "get_result", "request_id": f"r{n}"}) for n in range(3000)]
        async with watched_loop() as turns:
            for frame in flood:
                await wire.socket.send(frame)
            for _ in flood:
                assert (await wire.hear())["op"] == "call_tool_res"
    assert turns.longest_s < 0.25
