"""Which era a version is of, as the official SDK knows them: it is the SDK that agrees on one.

Imports the SDK: to be imported lazily, and in a thread.
"""

from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from exai.core.mcp_words import Era


def era_of(version: str | None) -> Era:
    """Return the era of a version; before one is agreed, there can only be a handshake."""
    return Era.MODERN if version in MODERN_PROTOCOL_VERSIONS else Era.HANDSHAKE
