"""Odd JSON and broken requests over a socket: each row of the page, on both libraries."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import ServerConfig
from exai.testing.running_daemon import TOKEN, daemon_config, running_daemon
from tests.journeys.wire import Wire, open_wire

USABLE = "!" + "~" * 127
MALFORMED = {
    "NaN": '{"op":"health","request_id":"r1","x":NaN}',
    "Infinity": '{"op":"health","request_id":"r1","x":Infinity}',
    "-Infinity": '{"op":"health","request_id":"r1","x":-Infinity}',
    "a lone high surrogate": '{"op":"health","request_id":"r1","x":"\\ud800"}',
    "a lone low surrogate": '{"op":"health","request_id":"r1","\\udc00":1}',
    "65 levels": '{"op":"health","request_id":"r1","x":' + "[" * 64 + "]" * 64 + "}",
    "a hundred thousand levels": "[" * 100_000,
    "an integer of 401 digits": '{"op":"health","request_id":"r1","x":-' + "9" * 401 + "}",
    "more than 100,000 values": '{"op":"health","x":[' + "0," * 100_000 + "0]}",
    "a float out of range": '{"op":"call_tool","name":"version","timeout_s":1e999}',
    "a float out of range, deep": '{"op":"call_tool","name":"echo","arguments":{"x":-1e999}}',
    "a byte order mark": '\ufeff{"op":"health"}',
    "trailing characters": '{"op":"health"}{}',
    "an array": '[{"op":"health"}]',
    "nothing": "",
}
WELL_FORMED = {
    "unknown fields": '{"op":"health","request_id":"r1","novelty":{"a":[1]}}',
    "duplicate keys": '{"op":"bye","request_id":7,"op":"health","request_id":"r1"}',
    "a pair of surrogates": '{"op":"health","request_id":"r1","x":"\\ud83d\\ude00"}',
    "64 levels": '{"op":"health","request_id":"r1","x":' + "[" * 63 + "]" * 63 + "}",
    "an integer of 400 digits": '{"op":"health","request_id":"r1","x":' + "9" * 400 + "}",
    "99,000 values": '{"op":"health","request_id":"r1","x":[' + "0," * 98_990 + "0]}",
    "an escaped key": '{"\\u006fp":"health","request_id":"r1"}',
}


@pytest.fixture(params=["picows", "websockets"])
async def wire(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Wire]:
    config = daemon_config(tmp_path, server=ServerConfig(websocket_library=request.param))
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN) as opened:
        yield opened
        assert (await opened.call("echo", "afterwards", arguments={"text": "x"}))["ok"]


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED)
async def test_odd_json_is_malformed_and_the_session_goes_on(wire: Wire, frame: str) -> None:
    await wire.socket.send(frame)
    answer = await wire.hear()
    assert (answer["op"], answer["request_id"]) == ("error", None)
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("PROTOCOL_ERROR", False)


@pytest.mark.parametrize("frame", WELL_FORMED.values(), ids=WELL_FORMED)
async def test_json_that_only_looks_odd_is_read(wire: Wire, frame: str) -> None:
    await wire.socket.send(frame)
    answer = await wire.hear()
    assert (answer["op"], answer["request_id"]) == ("health_res", "r1")


@pytest.mark.parametrize("op", ["dance", "hello", "call_tool_res", "", 7, None, ["health"]])
async def test_an_op_that_is_unknown_is_an_error_under_the_requests_id(
    wire: Wire, op: object
) -> None:
    await wire.socket.send(json.dumps({"op": op, "request_id": USABLE}))
    answer = await wire.hear()
    assert (answer["op"], answer["request_id"]) == ("error", USABLE)
    assert answer["error"]["code"] == "PROTOCOL_ERROR"


@pytest.mark.parametrize(
    "broken",
    [
        {"op": "call_tool"},
        {"op": "call_tool", "name": 7},
        {"op": "call_tool", "name": "echo", "arguments": []},
        {"op": "call_tool", "name": "echo", "timeout_s": "5"},
        {"op": "call_tool", "name": "echo", "timeout_s": 0},
        {"op": "call_tool", "name": "echo", "cache": "never"},
        {"op": "call_tool", "name": "echo", "idempotency_key": ""},
        {"op": "call_tool", "name": "echo", "traceparent": 7},
        {"op": "cancel_tool", "reason": ["x"]},
    ],
    ids=str,
)
async def test_a_broken_request_about_a_call_is_answered_by_its_result(
    wire: Wire, broken: dict[str, Any]
) -> None:
    await wire.say(**broken, request_id=USABLE)
    answer = await wire.hear()
    assert (answer["op"], answer["request_id"], answer["ok"]) == ("call_tool_res", USABLE, False)
    assert (answer["error"]["code"], answer["error"]["retryable"]) == ("INVALID_REQUEST", False)
    assert "meta" not in answer


@pytest.mark.parametrize("request_id", ["", "a b", "ü", "x" * 129, "r\n", 7, ["r"]])
@pytest.mark.parametrize("op", ["call_tool", "cancel_tool", "get_result"])
async def test_an_unusable_id_is_answered_by_an_error_without_one(
    wire: Wire, op: str, request_id: object
) -> None:
    await wire.say(op, name="version", request_id=request_id)
    answer = await wire.hear()
    assert (answer["op"], answer["request_id"]) == ("error", None)
    assert answer["error"]["code"] == "INVALID_REQUEST"


@pytest.mark.parametrize(
    "broken",
    [
        {"op": "rotate_token", "grace_s": -1},
        {"op": "rotate_token", "grace_s": 31_536_001},
        {"op": "rotate_token", "new": 7},
        {"op": "ack"},
        {"op": "ack", "request_ids": "r1"},
        {"op": "ack", "request_ids": ["r1", " "]},
    ],
    ids=str,
)
async def test_any_other_broken_request_is_an_error_under_its_id(
    wire: Wire, broken: dict[str, Any]
) -> None:
    await wire.say(**broken, request_id="r1")
    answer = await wire.hear()
    assert (answer["op"], answer["request_id"]) == ("error", "r1")
    assert answer["error"]["code"] == "INVALID_REQUEST"
