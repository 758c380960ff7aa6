"""The Python SDK's client in both eras, over HTTP and over stdio."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import httpx2
import mcp_types as types
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.cli.exai_process import Shell
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

Era = Literal["2025-11-25", "2026-07-28"]
ERAS: tuple[Era, ...] = ("2025-11-25", "2026-07-28")


def _mode(era: Era) -> str:
    """Return how the SDK is told to speak in an era; by itself it looks for the newest."""
    return "legacy" if era == "2025-11-25" else "auto"


@asynccontextmanager
async def _over_http(door: Door, era: Era) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
        transport = streamable_http_client(door.mcp_url, http_client=http)
        async with Client(transport, mode=_mode(era)) as client:
            yield client


@asynccontextmanager
async def _over_stdio(shell: Shell, era: Era) -> AsyncIterator[Client]:
    bridge = StdioServerParameters(
        command=sys.executable, args=["-m", "exai", "bridge"], env=shell.environ
    )
    async with Client(bridge, mode=_mode(era)) as client:
        yield client


def _text_of(result: types.CallToolResult) -> str:
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return content.text


async def _cancel_a_call(client: Client) -> None:
    """Make a call, and cancel it once it has begun."""
    has_begun = asyncio.Event()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        has_begun.set()

    async with asyncio.TaskGroup() as tasks:
        call = tasks.create_task(client.call_tool(WAITING, progress_callback=note))
        await has_begun.wait()
        call.cancel()


async def _converse(client: Client) -> Conversation:
    steps: list[float] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        steps.append(progress)

    listing = await client.list_tools()
    simple = await client.call_tool(SIMPLE)
    failed = await client.call_tool(FAILING)
    await client.call_tool(REPORTING, progress_callback=note)
    await _cancel_a_call(client)
    afterwards = await client.call_tool(AFTERWARDS)
    return Conversation(
        tools=[tool.name for tool in listing.tools],
        text=_text_of(simple),
        failure=_text_of(failed),
        has_failed=bool(failed.is_error),
        progress=steps,
        after_cancelling=_text_of(afterwards),
    )


@pytest.mark.parametrize("era", ERAS)
async def test_it_does_everything_over_http(door: Door, era: Era) -> None:
    async with _over_http(door, era) as client:
        assert client.protocol_version == era
        check(await _converse(client))


@pytest.mark.parametrize("era", ERAS)
async def test_it_does_everything_over_stdio_through_the_bridge(
    door: Door, shell: Shell, era: Era
) -> None:
    async with _over_stdio(shell, era) as client:
        assert client.protocol_version == era
        check(await _converse(client))
