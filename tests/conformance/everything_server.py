"""The MCP server that the conformance suite expects, in both eras, over stdio or streamable HTTP.

python -m tests.conformance.everything_server              stdio
python -m tests.conformance.everything_server --port 0     HTTP; the address is the first line
"""

import argparse
import asyncio
import socket
import sys
import warnings

import mcp_types as types
import uvicorn
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning

from tests.conformance import fixture_resources
from tests.conformance.event_memory import EventMemory
from tests.conformance.fixture_prompts import FixturePrompts
from tests.conformance.fixture_questions import Context
from tests.conformance.fixture_tools import FixtureTools

NAME = "everything"
RETRY_MS = 50


async def set_level(context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    """Agree: everything that is ever logged here is worth it at any level."""
    return types.EmptyResult()


def everything_server() -> Server:
    """Return the server."""
    bus = InMemorySubscriptionBus()
    tools = FixtureTools(bus)
    prompts = FixturePrompts(lambda: tools.has_added_prompt)
    server = Server(
        NAME,
        version="1.0.0",
        on_list_tools=tools.list,
        on_call_tool=tools.call,
        on_list_resources=fixture_resources.list_resources,
        on_list_resource_templates=fixture_resources.list_templates,
        on_read_resource=fixture_resources.read_resource,
        on_subscribe_resource=fixture_resources.subscribe,
        on_unsubscribe_resource=fixture_resources.unsubscribe,
        on_subscriptions_listen=ListenHandler(bus),
        on_list_prompts=prompts.list,
        on_get_prompt=prompts.get,
        on_completion=prompts.complete,
        on_set_logging_level=set_level,
    )
    security = RequestStateSecurity.ephemeral()
    server.middleware.append(RequestStateBoundary(security, default_audience=NAME))
    return server


async def serve_stdio(server: Server, *, handshake_only: bool) -> None:
    """Serve one client, over this process's standard streams."""
    options = server.create_initialization_options(
        NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
    )
    async with stdio_server() as (reading, writing):
        if handshake_only:
            await serve_loop(server, reading, writing, lifespan_state={}, init_options=options)
        else:
            await server.run(reading, writing, options)


async def serve_http(server: Server, port: int) -> None:
    """Serve any number of clients, until a signal ends it."""
    app = server.streamable_http_app(event_store=EventMemory(), retry_interval=RETRY_MS)
    listener = socket.create_server(("127.0.0.1", port))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp\n")
    sys.stdout.flush()
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    """Serve, as the arguments say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, help="serve streamable HTTP there; 0: any port")
    parser.add_argument("--handshake", action="store_true", help="speak no era but the first")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    server = everything_server()
    if arguments.port is None:
        asyncio.run(serve_stdio(server, handshake_only=arguments.handshake))
    else:
        asyncio.run(serve_http(server, arguments.port))


if __name__ == "__main__":
    main()
