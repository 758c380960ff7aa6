"""Which lines of a server's log a client wants to hear."""

from typing import Any, get_args

from exai.core.tool import LogLevel
from exai.protocols.mcp_messages import INVALID_PARAMS, McpError

LEVELS: tuple[str, ...] = get_args(LogLevel)
"""From the least to the most serious."""


def is_wanted(entry: dict[str, Any], least: str | None) -> bool:
    """Tell whether an entry is as serious as `least`, which is None where nobody listens."""
    level = entry.get("level")
    if least not in LEVELS or level not in LEVELS or "data" not in entry:
        return False
    return LEVELS.index(level) >= LEVELS.index(least)


def read_level(params: dict[str, Any]) -> str:
    """Return the level that `logging/setLevel` sets. Raises `McpError`."""
    level = params.get("level")
    if level not in LEVELS:
        raise McpError(INVALID_PARAMS, f"level is one of: {', '.join(LEVELS)}")
    return str(level)
