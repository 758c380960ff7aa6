"""FastMCP's HTTP server with an `echo` tool; says where it listens.

    .venv-bench/bin/python bench/servers/fastmcp_http.py stateless|stateful

Runs in an environment of its own (`requirements-peers.txt`). `stateless` answers each request in
JSON, `stateful` keeps sessions and answers in event streams, the default. Logs errors only, and
runs on uvloop.
"""

import sys

import uvloop
from fastmcp import FastMCP

from bench.servers.announced_listener import announced_listener

server = FastMCP("bench")


@server.tool
async def echo(text: str) -> str:
    """Return the text."""
    return text


async def main(kind: str) -> None:
    """Serve until the process is ended."""
    is_stateless = kind == "stateless"
    with announced_listener() as listener:
        await server.run_http_async(
            show_banner=False,
            log_level="error",
            json_response=is_stateless,
            stateless_http=is_stateless,
            sockets=[listener],
        )


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:]))
