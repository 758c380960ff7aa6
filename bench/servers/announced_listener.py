"""A socket that listens on a free port, and the line that says where."""

import socket


def announced_listener() -> socket.socket:
    """Listen, and print the address of an MCP server.

    The socket is told that it is TCP: asyncio lets small answers wait for the peer on one that
    does not know (Nagle's algorithm), which costs 40 ms each.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1024)
    print(f"ready: http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    return listener
