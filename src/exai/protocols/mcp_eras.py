"""The two eras of MCP: what a version calls things, and what it wants around them.

The handshake era (up to 2025-11-25) opens a connection with `initialize`; since 2026-07-28
every request has an envelope in its `_meta`, and every result says what it is. Knows no I/O.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from exai.core.mcp_words import (
    CALL_TOOL,
    CLIENT_CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    COMPLETE,
    DISCOVER,
    GET_PROMPT,
    INITIALIZE,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LIST_CHANGED,
    LIST_PROMPTS,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    LIST_TOOLS,
    LISTEN,
    METHOD_NOT_FOUND,
    PING,
    PROGRESS_TOKEN,
    READ_RESOURCE,
    SERVER_INFO_KEY,
    SET_LEVEL,
    SUBSCRIBE,
    UNSUBSCRIBE,
    UNSUPPORTED_PROTOCOL_VERSION,
    VERSION_KEY,
    Era,
)
from exai.protocols.mcp_messages import McpError, McpRequest

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)

_OWN = "exai/"
IDEMPOTENCY_KEY = _OWN + "idempotencyKey"

_OF_THIS_CONNECTION = frozenset({VERSION_KEY, CLIENT_INFO_KEY, PROGRESS_TOKEN})

_IN_BOTH = {
    LIST_TOOLS,
    CALL_TOOL,
    LIST_RESOURCES,
    LIST_TEMPLATES,
    READ_RESOURCE,
    LIST_PROMPTS,
    GET_PROMPT,
    COMPLETE,
}
CACHEABLE_METHODS = frozenset(
    {
        LIST_TOOLS,
        LIST_RESOURCES,
        LIST_TEMPLATES,
        READ_RESOURCE,
        LIST_PROMPTS,
        DISCOVER,
    }
)
_OF_MODERN_RESULTS = ("resultType", "ttlMs", "cacheScope")

CAPABILITIES: dict[str, Any] = {
    "tools": {LIST_CHANGED: True},
    "resources": {LIST_CHANGED: True, "subscribe": True},
    "prompts": {LIST_CHANGED: True},
    "completions": {},
    "logging": {},
}
"""What a door to the daemon offers: its MCP servers may come to have any of it."""


_METHODS: dict[Era, frozenset[str]] = {
    Era.HANDSHAKE: frozenset(_IN_BOTH | {INITIALIZE, PING, SET_LEVEL, SUBSCRIBE, UNSUBSCRIBE}),
    Era.MODERN: frozenset(_IN_BOTH | {DISCOVER, LISTEN}),
}
"""The requests that a client may send, once its first has decided how its connection speaks."""


class ServerInfo(NamedTuple):
    """What a server calls itself."""

    name: str
    version: str

    def as_dict(self) -> dict[str, str]:
        """Return it as MCP writes it."""
        return {"name": self.name, "version": self.version}


def meta_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's `_meta`; empty where there is none, or none that can be read."""
    meta = params.get("_meta")
    return meta if isinstance(meta, dict) else {}


def meta_for_the_server(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a request's `_meta` goes along to an MCP server behind the daemon.

    A client that declares no capabilities says nothing by that.
    """
    return {
        key: value
        for key, value in meta.items()
        if key not in _OF_THIS_CONNECTION
        and not key.startswith(_OWN)
        and (value or key != CLIENT_CAPABILITIES_KEY)
    }


def era_of_first(request: McpRequest) -> Era:
    """Return the era in which a connection is opened; `initialize` is never of the modern one."""
    is_modern = request.method != INITIALIZE and VERSION_KEY in meta_of(request.params)
    return Era.MODERN if is_modern else Era.HANDSHAKE


def check_era(request: McpRequest, era: Era) -> None:
    """Check that a request is one of its connection's era. Raises `McpError`."""
    if era is Era.MODERN:
        if request.method == INITIALIZE:
            raise _unsupported(
                "the connection speaks 2026-07-28, which knows no initialize",
                request.params.get("protocolVersion"),
            )
        _check_envelope(request.params)
    elif request.method != INITIALIZE and VERSION_KEY in meta_of(request.params):
        raise McpError(
            INVALID_REQUEST,
            "this connection serves the handshake protocol era; requests carrying the "
            "2026-07-28 envelope are not accepted on it",
        )
    if request.method not in _METHODS[era]:
        raise McpError(METHOD_NOT_FOUND, "Method not found", request.method)


def _check_envelope(params: dict[str, Any]) -> None:
    meta = meta_of(params)
    missing = [key for key in (VERSION_KEY, CLIENT_CAPABILITIES_KEY) if key not in meta]
    if missing:
        raise McpError(
            INVALID_PARAMS,
            f"params._meta is missing the required envelope key(s): {', '.join(missing)}",
        )
    version = meta[VERSION_KEY]
    if not isinstance(version, str):
        raise McpError(INVALID_PARAMS, "the protocol-version envelope value must be a string")
    if version not in MODERN_VERSIONS:
        raise _unsupported("Unsupported protocol version", version)


def _unsupported(message: str, requested: Any) -> McpError:
    data: dict[str, Any] = {"supported": list(MODERN_VERSIONS)}
    if isinstance(requested, str):
        data["requested"] = requested
    return McpError(UNSUPPORTED_PROTOCOL_VERSION, message, data)


def initialize_result(params: dict[str, Any], server: ServerInfo) -> dict[str, Any]:
    """Answer `initialize`: in the client's version, or the newest. Raises `McpError`."""
    requested = params.get("protocolVersion")
    client = params.get("clientInfo")
    if not (
        isinstance(requested, str)
        and isinstance(params.get("capabilities"), dict)
        and isinstance(client, dict)
    ):
        raise McpError(
            INVALID_PARAMS, "initialize needs protocolVersion, capabilities and clientInfo"
        )
    version = requested if requested in HANDSHAKE_VERSIONS else HANDSHAKE_VERSIONS[-1]
    return {
        "protocolVersion": version,
        "capabilities": CAPABILITIES,
        "serverInfo": server.as_dict(),
    }


def discover_result() -> dict[str, Any]:
    """Answer `server/discover`."""
    return {"supportedVersions": list(MODERN_VERSIONS), "capabilities": CAPABILITIES}


def finish_result(
    method: str, result: dict[str, Any], era: Era, server: ServerInfo
) -> dict[str, Any]:
    """Give a result what its era wants of every result, whoever made it."""
    if era is Era.HANDSHAKE:
        return {key: value for key, value in result.items() if key not in _OF_MODERN_RESULTS}
    meta = {**meta_of(result), SERVER_INFO_KEY: server.as_dict()}
    kind = result.get("resultType") or "complete"
    finished = {**result, "resultType": kind, "_meta": meta}
    if method in CACHEABLE_METHODS and kind == "complete":
        finished = {"ttlMs": 0, "cacheScope": "private", **finished}
    return finished
