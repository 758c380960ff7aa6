"""Asking a server for its tools, page by page, with bounds."""

from typing import Any

from exai.upstream.handshake import Terms
from exai.upstream.json_rpc import BrokenAnswer, ErrorAnswer, JsonRpcConnection
from exai.upstream.server_requests import METHOD_NOT_FOUND

MAX_TOOLS = 1000

_MAX_PAGES = 200
_MAX_LISTING_BYTES = 33_554_432


async def list_tools(connection: JsonRpcConnection, terms: Terms) -> list[dict[str, Any]]:
    """Return the server's tools as it describes them, at most one beyond `MAX_TOOLS`.

    Raises what `JsonRpcConnection.request` raises.
    """
    tools: list[dict[str, Any]] = []
    params: dict[str, Any] = {"_meta": terms.request_meta} if terms.request_meta else {}
    received_before_bytes = connection.received_bytes
    for _ in range(_MAX_PAGES):
        try:
            page = await connection.request("tools/list", params)
        except ErrorAnswer as error:
            if error.code == METHOD_NOT_FOUND:
                return []
            raise
        tools += _tools_of(page)
        cursor = page.get("nextCursor")
        if not isinstance(cursor, str) or len(tools) > MAX_TOOLS:
            break
        if connection.received_bytes - received_before_bytes > _MAX_LISTING_BYTES:
            raise BrokenAnswer(f"its list of tools has more than {_MAX_LISTING_BYTES:,} bytes")
        params = {**params, "cursor": cursor}
    return tools[: MAX_TOOLS + 1]


def _tools_of(page: dict[str, Any]) -> list[dict[str, Any]]:
    tools = page.get("tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BrokenAnswer("its list of tools is none")
    return tools
