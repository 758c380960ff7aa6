"""Tools that ask the client of their call back, and connections that speak in one era only."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from exai.core.client_side import AskFailed
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.running_daemon import daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.mcp_by_hand import INITIALIZE, LIST, call
from tests.journeys.test_mcp_websocket import Peer, peer

QUESTION = {"message": "Which one?", "requestedSchema": {"type": "object", "properties": {}}}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
}
LIST_2026: dict[str, Any] = {**LIST, "params": {"_meta": ENVELOPE}}


async def ask(arguments: dict[str, Any], run: ToolRun) -> Completed:
    """Ask, and say what was told."""
    if run.client is None:
        return Completed([text_block("nobody to ask")])
    try:
        told = await run.client.ask("elicitation/create", QUESTION)
    except AskFailed as failed:
        return Completed([text_block(f"failed: {failed.code} {failed}")])
    return Completed([text_block(f"told: {told['content']['name']}")])


@asynccontextmanager
async def asked(tmp_path: Path, **capabilities: Any) -> AsyncIterator[Peer]:
    """Return a peer with these capabilities that has called the asking tool, under id 2."""
    tools = [ScriptedTool("ask", ask), ScriptedTool("gate", Gates())]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, peer(daemon) as me:
        params = {**INITIALIZE["params"], "capabilities": capabilities}
        await me.ask({**INITIALIZE, "params": params})
        params = {"name": "ask", "arguments": {}}
        await me.send({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
        yield me


async def test_a_tool_is_told_what_the_client_answers(tmp_path: Path) -> None:
    async with asked(tmp_path, elicitation={}) as me:
        question = await me.receive()
        assert (question["method"], question["params"]) == ("elicitation/create", QUESTION)
        result = {"action": "accept", "content": {"name": "the blue one"}}
        answer = await me.ask({"jsonrpc": "2.0", "id": question["id"], "result": result})
        assert answer["result"]["content"][0]["text"] == "told: the blue one"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ({"code": -1, "message": "not now"}, "failed: -1 not now"),
        ({"code": "?"}, "failed: -32603 the client's answer has no result"),
    ],
)
async def test_a_tool_is_told_that_the_client_does_not_answer(
    tmp_path: Path, error: dict[str, Any], told: str
) -> None:
    async with asked(tmp_path, elicitation={}) as me:
        question = await me.receive()
        answer = await me.ask({"jsonrpc": "2.0", "id": question["id"], "error": error})
        assert answer["result"]["content"][0]["text"] == told


async def test_answers_to_nothing_are_left_unheard(tmp_path: Path) -> None:
    async with asked(tmp_path, elicitation={}) as me:
        question = await me.receive()
        await me.send({"jsonrpc": "2.0", "id": "no question", "result": {}})
        error = {"code": -1, "message": "not now"}
        answer = await me.ask({"jsonrpc": "2.0", "id": question["id"], "error": error})
        assert answer["id"] == 2
        await me.send({"jsonrpc": "2.0", "id": question["id"], "error": error})
        assert (await me.ask(LIST))["id"] == LIST["id"]


async def test_who_takes_no_questions_is_not_asked(tmp_path: Path) -> None:
    async with asked(tmp_path) as me:
        assert (await me.receive())["result"]["content"][0]["text"] == "nobody to ask"


async def test_a_question_of_a_cancelled_call_is_taken_back(tmp_path: Path) -> None:
    async with asked(tmp_path, elicitation={}) as me:
        question = await me.receive()
        params: dict[str, Any] = {"requestId": 2}
        taken_back = await me.ask(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params}
        )
        assert taken_back["method"] == "notifications/cancelled"
        assert taken_back["params"] == {"requestId": question["id"]}


async def test_a_cancelled_call_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    gates = Gates()
    tools = [ScriptedTool("gate", gates)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        await me.send(call("a", 5))
        await gates.until_inside("a")
        params: dict[str, Any] = {"requestId": 5}
        await me.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        await gates.until_cancelled("a")
        daemon.stop.set()
        with pytest.raises(ConnectionClosed):
            await me.receive()
        assert me.websocket.close_code == 1012


async def test_what_comes_before_the_first_request_is_heard_too(tmp_path: Path) -> None:
    tools = [ScriptedTool("gate", Gates())]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon, peer(daemon) as me:
        for _ in range(20):
            await me.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (await me.ask(LIST))["result"]["tools"]


async def test_a_connection_is_of_one_era(tmp_path: Path) -> None:
    tools = [ScriptedTool("gate", Gates())]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon:
        async with peer(daemon) as me:
            assert (await me.ask(LIST_2026))["result"]["resultType"] == "complete"
            assert (await me.ask(INITIALIZE))["error"]["code"] == -32022
            assert (await me.ask(LIST))["error"]["code"] == -32602
        async with peer(daemon) as me:
            await me.ask(INITIALIZE)
            assert (await me.ask(LIST_2026))["error"]["code"] == -32600
            assert (await me.ask(LIST))["result"]["tools"]
