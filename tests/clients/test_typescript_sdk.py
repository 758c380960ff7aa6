"""The TypeScript SDK's client over a WebSocket with the subprotocol `mcp`."""

import json
from pathlib import Path

import pytest

from tests.clients.conftest import TOKEN
from tests.clients.conversation import Conversation, check
from tests.clients.node_process import run_node
from tests.conformance.targets import Door

pytestmark = pytest.mark.slow

CLIENT = Path(__file__).parent / "websocket_client.mjs"


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
