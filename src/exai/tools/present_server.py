"""Asking the MCP server of a name, whichever that is by now: servers come, go and are replaced.

Knows what a replacement does to work that had not begun; knows nothing of what is asked.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from exai.core.errors import UpstreamFailed
from exai.core.tool import ToolRun
from exai.upstream.server import UpstreamServer

Servers = Mapping[str, UpstreamServer]
"""The servers that there are now."""

T = TypeVar("T")


async def ask_present_server(
    servers: Servers, name: str, run: ToolRun, ask: Callable[[UpstreamServer], Awaitable[T]]
) -> T:
    """Let a server do it; if it is replaced before it could begin, the one that follows."""
    while True:
        server = _present(servers, name)
        try:
            return await ask(server)
        except UpstreamFailed:
            if run.may_have_begun or _present(servers, name) is server:
                raise


def _present(servers: Servers, name: str) -> UpstreamServer:
    server = servers.get(name)
    if server is None:
        raise UpstreamFailed(f"{name} was removed", retryable=True)
    return server
