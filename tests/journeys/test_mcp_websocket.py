"""MCP over the WebSocket port, as a hostile or a clumsy peer speaks it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from exai.core.config import AuthConfig, Config, LimitsConfig, ServerConfig
from exai.core.events import SessionEnded
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.mcp_by_hand import INITIALIZE, LIST, call
from tests.journeys.mcp_doors import PATIENCE_S


async def large(arguments: dict[str, Any], run: ToolRun) -> Completed:
    return Completed([text_block("x" * 1_000_000)])


@pytest.fixture
def gates() -> Gates:
    return Gates()


@asynccontextmanager
async def started(config: Config, gates: Gates) -> AsyncIterator[RunningDaemon]:
    tools = [ScriptedTool("gate", gates), ScriptedTool("large", large)]
    async with running_daemon(config, tools) as daemon:
        yield daemon


class Peer:
    """Speaks JSON-RPC by hand."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket

    async def send(self, message: Any) -> None:
        await self.websocket.send(message if isinstance(message, str) else json.dumps(message))

    async def receive(self) -> Any:
        async with asyncio.timeout(PATIENCE_S):
            return json.loads(await self.websocket.recv())

    async def ask(self, message: Any) -> Any:
        await self.send(message)
        return await self.receive()


@asynccontextmanager
async def peer(daemon: RunningDaemon, token: str | None = TOKEN) -> AsyncIterator[Peer]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with connect(
        daemon.url,
        subprotocols=["mcp"],  # type: ignore[list-item]
        additional_headers=headers,
        max_size=None,
    ) as websocket:
        assert websocket.subprotocol == "mcp"
        yield Peer(websocket)


@pytest.mark.parametrize("token", [None, "wrong-token-0123456789"])
async def test_without_a_token_the_upgrade_is_refused(
    tmp_path: Path, gates: Gates, token: str | None
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon:
        with pytest.raises(InvalidStatus) as refused:
            async with peer(daemon, token):
                pass
        assert refused.value.response.status_code == 401
        assert refused.value.response.headers["WWW-Authenticate"] == "Bearer"


async def test_open_access_needs_no_token(tmp_path: Path, gates: Gates) -> None:
    config = daemon_config(tmp_path, auth=AuthConfig(mode="none"))
    async with started(config, gates) as daemon, peer(daemon, None) as me:
        answer = await me.ask(INITIALIZE)
        assert answer["result"]["serverInfo"]["name"] == "exai"


@pytest.mark.parametrize(
    ("sent", "answered_id", "code"),
    [
        ("no json", None, -32700),
        ("[]", None, -32700),
        ('{"jsonrpc":"2.0"}', None, -32600),
        ('{"jsonrpc":"1.0","id":7,"method":"ping"}', 7, -32600),
        ('{"jsonrpc":"2.0","id":true,"method":"ping"}', None, -32600),
        ('{"jsonrpc":"2.0","id":9,"method":"no/such/method"}', 9, -32601),
        ('{"jsonrpc":"2.0","id":9,"method":"tools/call","params":{"name":5}}', 9, -32602),
        ('{"jsonrpc":"2.0","id":9,"method":"tools/list","params":{"cursor":"x"}}', 9, -32602),
        ('{"jsonrpc":"2.0","id":9,"method":' + "[" * 100_000, None, -32700),
    ],
)
async def test_what_cannot_be_understood_is_answered_and_the_connection_goes_on(
    tmp_path: Path, gates: Gates, sent: str, answered_id: int | None, code: int
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        answer = await me.ask(sent)
        assert (answer.get("id"), answer["error"]["code"]) == (answered_id, code)
        assert (await me.ask(LIST))["result"]["tools"]


async def test_the_first_message_may_be_garbage(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        assert (await me.ask("garbage"))["error"]["code"] == -32700
        assert (await me.ask(INITIALIZE))["result"]


async def test_who_forgets_to_initialize_is_told_so_and_may_still_do_it(
    tmp_path: Path, gates: Gates
) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as client:
        ping = {"jsonrpc": "2.0", "id": 7, "method": "ping"}
        assert (await client.ask(ping)) == {"jsonrpc": "2.0", "id": 7, "result": {}}
        unknown = await client.ask(LIST | {"method": "server/discover"})
        assert unknown["error"]["code"] == -32601
        for message in (LIST, call("a"), LIST | {"id": "x", "method": "prompts/list"}):
            refused = await client.ask(message)
            assert refused["id"] == message["id"]
            assert refused["error"]["code"] == -32600
            assert "send initialize first" in refused["error"]["message"]
        assert "serverInfo" in (await client.ask(INITIALIZE))["result"]
        await client.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        assert (await client.ask(LIST))["result"]["tools"]


async def test_a_cancelled_call_is_not_answered(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        await me.send(call("a", 5))
        await gates.until_inside("a")
        params = {"requestId": 5, "reason": "enough"}
        await me.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        await gates.until_cancelled("a")
        assert (await me.ask(LIST))["id"] == LIST["id"]


async def test_a_call_may_be_cancelled_before_it_begins(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        for number in range(2, 30):
            params = {"requestId": str(number)}
            await me.send(call(f"g{number}", number))
            await me.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        assert (await me.ask(LIST))["id"] == LIST["id"]
        daemon.stop.set()
        with pytest.raises(ConnectionClosed):
            await me.receive()
        assert me.websocket.close_code == 1012


async def test_a_cancelled_call_with_a_key_ends_too(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        keyed = call("a", 5)
        keyed["params"]["_meta"] = {"exai/idempotencyKey": "key-1"}
        await me.send(keyed)
        await gates.until_inside("a")
        params = {"requestId": 5}
        await me.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        await gates.until_cancelled("a")


async def test_who_leaves_frees_what_they_took(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon:
        async with peer(daemon) as me:
            await me.ask(INITIALIZE)
            for number in range(4):
                await me.send(call(f"g{number}", number))
            await gates.until_inside(*(f"g{number}" for number in range(4)))
        for number in range(4):
            await gates.until_cancelled(f"g{number}")


async def test_who_does_not_read_loses_the_connection(tmp_path: Path, gates: Gates) -> None:
    server = ServerConfig(outbox_bytes=3_000_000, slow_consumer_s=0.5)
    async with (
        started(daemon_config(tmp_path, server=server), gates) as daemon,
        connect(
            daemon.url,
            subprotocols=["mcp"],  # type: ignore[list-item]
            additional_headers={"Authorization": f"Bearer {TOKEN}"},
            max_size=None,
            max_queue=1,
        ) as websocket,
    ):
        await websocket.send(json.dumps(INITIALIZE))
        await websocket.recv()
        for number in range(40):
            message = call("x", number)
            message["params"]["name"] = "large"
            await websocket.send(json.dumps(message))
        await daemon.events.first_of(SessionEnded)
        with pytest.raises(ConnectionClosed):
            for _ in range(41):
                await websocket.recv()
        assert websocket.close_code in (4005, 1006)


async def test_a_drain_delivers_what_runs(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        await me.send(call("a", 5))
        await gates.until_inside("a")
        daemon.stop.set()
        gates.open("a")
        assert (await me.receive())["result"]["content"][0]["text"] == "through a"
        with pytest.raises(ConnectionClosed):
            await me.receive()
        assert me.websocket.close_code == 1012


async def test_there_are_no_more_requests_under_way_than_may_be(
    tmp_path: Path, gates: Gates
) -> None:
    config = daemon_config(tmp_path, limits=LimitsConfig(mcp_max_requests=2))
    async with started(config, gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        for number in (5, 6):
            await me.send(call(f"g{number}", number))
        await gates.until_inside("g5", "g6")
        refused = await me.ask(LIST)
        assert "limits.mcp_max_requests" in refused["error"]["message"]
        gates.open("g5")
        assert (await me.receive())["id"] == 5
        assert "result" in await me.ask(LIST)


async def test_an_id_in_use_is_refused(tmp_path: Path, gates: Gates) -> None:
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        await me.send(call("a", 7))
        await gates.until_inside("a")
        refused = await me.ask(call("b", 7))
        assert "is under way" in refused["error"]["message"]
        gates.open("a")
        assert (await me.receive())["result"]["isError"] is False
    assert gates.runs == ["a"]


@pytest.mark.parametrize("traceparent", [5, None, {"a": 1}])
async def test_a_meta_of_any_shape_can_be_stored_and_read_again(
    tmp_path: Path, gates: Gates, traceparent: Any
) -> None:
    keyed = call("a", 5)
    keyed["params"]["_meta"] = {"exai/idempotencyKey": "key-1", "traceparent": traceparent}
    async with started(daemon_config(tmp_path), gates) as daemon, peer(daemon) as me:
        await me.ask(INITIALIZE)
        gates.open("a")
        assert (await me.ask(keyed))["result"]["isError"] is False
