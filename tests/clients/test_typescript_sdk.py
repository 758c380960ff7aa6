"""The TypeScript SDK's client, over a WebSocket with the subprotocol `mcp` and over HTTP."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.clients.conftest import TOKEN
from tests.clients.conversation import Conversation, check
from tests.clients.node_process import run_node
from tests.conformance.targets import Door
from tests.journeys.unhurried_daemon import TOKEN as RESTARTED_TOKEN
from tests.journeys.unhurried_daemon import UnhurriedDaemon, end
from tests.processes.process_tree import until

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).parent / "websocket_client.mjs"
HTTP_CLIENT = Path(__file__).parent / "http_client.mjs"


async def _converse(home: Path, *arguments: str) -> Conversation:
    end = await run_node(home, str(CLIENT), *arguments)
    assert end.status == 0, end
    return Conversation(**json.loads(end.out))


async def test_its_own_transport_connects_unchanged_where_no_token_is_needed(
    open_door: Door, tmp_path: Path
) -> None:
    check(await _converse(tmp_path, open_door.websocket_url))


async def test_a_subclass_of_ws_that_sets_the_header_connects_with_a_token(
    door: Door, tmp_path: Path
) -> None:
    check(await _converse(tmp_path, door.websocket_url, TOKEN))


async def test_without_its_token_it_does_not_connect(door: Door, tmp_path: Path) -> None:
    end = await run_node(tmp_path, str(CLIENT), door.websocket_url, "another-token-0123456789")
    assert end.status == 1
    assert "401" in end.err


async def test_over_http_it_does_not_see_that_the_daemon_was_killed(tmp_path: Path) -> None:
    daemon, given = UnhurriedDaemon(tmp_path), json.dumps({"what": "w", "after_s": 0.5})
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        process, _ = await stack.enter_async_context(daemon.serving())
        arguments = daemon.mcp_url, RESTARTED_TOKEN, "box__again", given
        client = tasks.create_task(run_node(tmp_path, str(HTTP_CLIENT), *arguments))
        await until(lambda: daemon.begun_count == 1)
        await end(process, signal.SIGKILL)
        await stack.enter_async_context(daemon.serving())
        said = await client
    assert said.status == 0, said
    assert json.loads(said.out) == {"text": "w", "has_failed": False}
    assert daemon.begun_count == 2
