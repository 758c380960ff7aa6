"""Reading messages of MCP, whatever carries them; a long one does not hold up the others."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from exai.protocols.mcp_messages import (
    McpNotification,
    McpRequest,
    McpResponse,
    read_message,
)
from exai.protocols.strict_json import check_limits, decode_object

T = TypeVar("T")
McpMessage = McpRequest | McpNotification | McpResponse

_AT_ONCE_BYTES = 65_536


async def read_text(text: bytes) -> McpMessage:
    """Return the message that a text is. Raises `NotAMessage`, `MalformedFrame`."""
    return await _without_holding_up(_read, text)


async def check_text(text: bytes) -> None:
    """Raise `MalformedFrame` for JSON that would take too long to read."""
    await _without_holding_up(check_limits, text)


async def _without_holding_up(do: Callable[[bytes], T], text: bytes) -> T:
    return do(text) if len(text) <= _AT_ONCE_BYTES else await asyncio.to_thread(do, text)


def _read(text: bytes) -> McpMessage:
    return read_message(decode_object(text))
