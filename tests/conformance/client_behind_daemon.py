"""An MCP client whose way to its server leads through a daemon: what the suite judges as a client.

    python -m tests.conformance.client_behind_daemon URL

It uses whatever the server at URL has, once, with arguments that fit; or makes the calls that the
suite asks for in the environment. What the server hears of it, the daemon says as its HTTP client.
"""

import asyncio
import json
import os
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
from mcp import Client, MCPError
from mcp.client.context import ClientRequestContext
from mcp.client.streamable_http import streamable_http_client
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from exai.core.config import AuthConfig, UpstreamConfig
from exai.testing.running_daemon import daemon_config, running_daemon
from tests.conformance.targets import until_ready

VERSION_VARIABLE = "MCP_CONFORMANCE_PROTOCOL_VERSION"
CONTEXT_VARIABLE = "MCP_CONFORMANCE_CONTEXT"
PREFIX = "suite__"
FITTING: dict[str, Any] = {"string": "x", "number": 5, "integer": 5, "boolean": True}


async def confirm(
    context: ClientRequestContext, params: types.ElicitRequestParams
) -> types.ElicitResult:
    """Answer every question to the user with yes."""
    return types.ElicitResult(action="accept", content={"confirmed": True})


def fitting_arguments(tool: types.Tool, tools: list[types.Tool]) -> dict[str, Any]:
    """Return arguments for whatever a tool requires; where that is an object, another's schema."""
    properties = tool.input_schema.get("properties", {})
    return {
        name: FITTING.get(properties[name].get("type"), tools[0].input_schema)
        for name in tool.input_schema.get("required", ())
    }


async def use(client: Client) -> None:
    """List everything, call every tool, read and get one of each."""
    listed = (await client.list_tools()).tools
    tools = [tool for tool in listed if tool.name.startswith(PREFIX)]
    context = json.loads(os.environ.get(CONTEXT_VARIABLE, "{}"))
    calls = context.get("toolCalls", ())
    asked_for = [(f"{PREFIX}{call['name']}", call["arguments"]) for call in calls]
    guessed = [(tool.name, fitting_arguments(tool, tools)) for tool in tools]
    for name, arguments in asked_for or guessed:
        with suppress(MCPError):
            await client.call_tool(name, arguments)
    with suppress(MCPError):
        for resource in (await client.list_resources()).resources[:1]:
            await client.read_resource(resource.uri)
    with suppress(MCPError):
        for prompt in (await client.list_prompts()).prompts[:1]:
            await client.get_prompt(prompt.name)


async def main() -> None:
    """Run a daemon before the server, and use it."""
    is_modern = os.environ[VERSION_VARIABLE] in MODERN_PROTOCOL_VERSIONS
    with tempfile.TemporaryDirectory() as state_dir:
        config = daemon_config(
            Path(state_dir),
            auth=AuthConfig(mode="none"),
            principals={},
            upstreams={"suite": UpstreamConfig(url=sys.argv[-1])},
        )
        async with running_daemon(config) as daemon:
            http_url = daemon.address.http_url
            await until_ready(http_url)
            async with (
                httpx2.AsyncClient(trust_env=False) as http,
                Client(
                    streamable_http_client(f"{http_url}mcp", http_client=http),
                    mode="auto" if is_modern else "legacy",
                    elicitation_callback=confirm,
                ) as client,
            ):
                await use(client)


if __name__ == "__main__":
    asyncio.run(main())
