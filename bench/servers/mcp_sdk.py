"""The official MCP SDK's HTTP server with an `echo` tool; says where it listens.

    python bench/servers/mcp_sdk.py stateless|stateful

`stateless` answers each request in JSON, `stateful` keeps sessions and answers in event streams,
the SDK's default. Logs errors only, and runs on uvloop.
"""

import sys

import uvicorn
from mcp.server.mcpserver import MCPServer

from bench.servers.announced_listener import announced_listener

server = MCPServer("bench", log_level="ERROR")


@server.tool()
async def echo(text: str) -> str:
    """Return the text."""
    return text


def main(kind: str) -> None:
    """Serve until the process is ended."""
    is_stateless = kind == "stateless"
    app = server.streamable_http_app(json_response=is_stateless, stateless_http=is_stateless)
    with announced_listener() as listener:
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
