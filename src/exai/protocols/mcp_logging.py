"""Which lines of a server's log a client wants to hear."""

from typing import Any

from exai.core.mcp_words import INVALID_PARAMS
from exai.core.tool import LOG_LEVELS
from exai.protocols.mcp_messages import McpError


def is_wanted(entry: dict[str, Any], least: str | None) -> bool:
    """Tell whether an entry is as serious as `least`, which is None where nobody listens."""
    level = entry.get("level")
    if least not in LOG_LEVELS or level not in LOG_LEVELS or "data" not in entry:
        return False
    return LOG_LEVELS.index(level) >= LOG_LEVELS.index(least)


def read_level(params: dict[str, Any]) -> str:
    """Return the level that `logging/setLevel` sets. Raises `McpError`."""
    level = params.get("level")
    if level not in LOG_LEVELS:
        raise McpError(INVALID_PARAMS, f"level is one of: {', '.join(LOG_LEVELS)}")
    return str(level)
