"""fastmcp's client over HTTP, in both eras."""

import asyncio
from typing import Any, Literal

import mcp_types as types
import pytest
from fastmcp import Client

from tests.clients.conftest import TOKEN
from tests.clients.conversation import (
    AFTERWARDS,
    FAILING,
    REPORTING,
    SIMPLE,
    WAITING,
    Conversation,
    check,
)
from tests.conformance.targets import Door

pytestmark = pytest.mark.slow


def _text_of(result: types.CallToolResult) -> str:
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def _cancel_a_call(client: Client[Any]) -> None:
    """Make a call, and cancel it once it has begun."""
    has_begun = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        has_begun.set()

    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call_tool_mcp(WAITING, {}, progress_handler=note))
        await has_begun.wait()
        call.cancel()


@pytest.mark.parametrize("mode", ["legacy", "auto"])
async def test_it_does_everything_over_http(door: Door, mode: Literal["legacy", "auto"]) -> None:
    steps: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    async with Client(door.mcp_url, auth=TOKEN, mode=mode) as client:
        tools = await client.list_tools()
        simple = await client.call_tool_mcp(SIMPLE, {})
        failed = await client.call_tool_mcp(FAILING, {})
        await client.call_tool_mcp(REPORTING, {}, progress_handler=note)
        await _cancel_a_call(client)
        afterwards = await client.call_tool_mcp(AFTERWARDS, {})
    check(
        Conversation(
            tools=[tool.name for tool in tools],
            text=_text_of(simple),
            failure=_text_of(failed),
            has_failed=bool(failed.is_error),
            progress=steps,
            after_cancelling=_text_of(afterwards),
        )
    )
