"""What a handshake agrees on, and the way to it: the SDK is imported only when needed.

The import takes seconds and tens of megabytes, so it happens once, in a thread, when the
first server has been started. `sdk_handshake` is the only module that knows the SDK.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec

from exai.core.mcp_words import Era
from exai.core.slow_imports import import_in_thread
from exai.upstream.json_rpc import Requests

NO_CAPABILITIES: Mapping[str, Any] = {}


class HandshakeFailed(Exception):
    """The server and we found no way to speak; `str()` says why."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """How to speak with a server.

    `request_meta` goes into the `_meta` of every request. One of the modern
    era tells what is new only on request. `capabilities` are the server's, as it says them.
    """

    protocol_version: str = ""
    server_version: str = ""
    era: Era = Era.HANDSHAKE
    capabilities: dict[str, Any] = {}
    request_meta: dict[str, Any] = {}

    def offers(self, capability: str, detail: str | None = None) -> bool:
        """Tell whether the server has a capability, and maybe a detail of it."""
        offered = self.capabilities.get(capability)
        return offered is not None and (detail is None or offered.get(detail) is True)


class Handshake:
    """The handshake with any server, whose SDK is imported at the first one."""

    def __init__(self, client_version: str) -> None:
        self._client_version = client_version
        self._importing = asyncio.Lock()
        self._negotiate: _Negotiate | None = None

    async def negotiate(
        self,
        connection: Requests,
        *,
        discover: bool = True,
        capabilities: Mapping[str, Any] = NO_CAPABILITIES,
    ) -> Terms:
        """Return what was agreed with the server; raises `HandshakeFailed`.

        Without `discover`, only the handshake of before 2026 is tried. `capabilities` are
        those that the server is told of: what it may ask of its client.
        """
        async with self._importing:
            if self._negotiate is None:
                sdk_handshake = await import_in_thread("exai.upstream.sdk_handshake")
                self._negotiate = sdk_handshake.negotiate
        return await self._negotiate(connection, self._client_version, discover, capabilities)


_Negotiate = Callable[[Requests, str, bool, Mapping[str, Any]], Awaitable[Terms]]
