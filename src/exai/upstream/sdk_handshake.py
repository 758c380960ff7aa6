"""Agreeing with a server on how to speak: MCP of 2026 or of before, by the official SDK.

Importing this module imports the SDK, which takes long: import it in a thread. Knows the
two eras; everything after the handshake is plain JSON-RPC (`json_rpc`) plus the `_meta`
that is agreed here.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import anyio._backends._asyncio  # anyio itself would import it at first use, on the loop
import anyio.abc
from mcp.client.session import ClientSession
from mcp.shared.dispatcher import CallOptions, Dispatcher, OnNotify, OnNotifyIntercept, OnRequest
from mcp.shared.exceptions import MCPError
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    INVALID_REQUEST,
    PROTOCOL_VERSION_META_KEY,
    REQUEST_TIMEOUT,
    UNSUPPORTED_PROTOCOL_VERSION,
    Implementation,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from exai.core.errors import ResultTooLarge
from exai.upstream.handshake import HandshakeFailed, Terms
from exai.upstream.json_rpc import BrokenAnswer, ErrorAnswer, Requests, ServerLost, StatusAnswer


async def negotiate(connection: Requests, client_version: str, discover: bool) -> Terms:
    """Return what was agreed with the server; raises `HandshakeFailed`."""
    client = Implementation(name="exai", version=client_version)
    async with ClientSession(dispatcher=_SdkDispatcher(connection), client_info=client) as session:
        # A failure leaves the session as a value: an exception would be wrapped in a group.
        agreed = await _agree(session, client, discover)
    if isinstance(agreed, HandshakeFailed):
        raise agreed
    return agreed


async def _agree(
    session: ClientSession, client: Implementation, discover: bool
) -> Terms | HandshakeFailed:
    try:
        await (_discover_or_initialize(session) if discover else _initialize(session))
    except (MCPError, ValidationError, RuntimeError, ServerLost) as error:
        return HandshakeFailed(str(error))
    return _terms_of(session, client)


async def _discover_or_initialize(session: ClientSession) -> None:
    try:
        await session.discover()
    except (MCPError, ValidationError, RuntimeError):
        # Whatever it said, it was no answer of the newer era.
        await _initialize(session)


async def _initialize(session: ClientSession) -> None:
    try:
        await session.initialize()
    except MCPError as error:
        if error.code != UNSUPPORTED_PROTOCOL_VERSION:
            raise
        # It speaks only the newer era, and was too slow to say so when asked.
        await session.discover()


def _terms_of(session: ClientSession, client: Implementation) -> Terms:
    version = session.protocol_version or ""
    is_modern = version in MODERN_PROTOCOL_VERSIONS
    capabilities = session.server_capabilities
    tools = capabilities.tools if capabilities else None
    return Terms(
        protocol_version=version,
        server_version=session.server_info.version if session.server_info else "",
        must_subscribe=is_modern and tools is not None and bool(tools.list_changed),
        request_meta={
            PROTOCOL_VERSION_META_KEY: version,
            CLIENT_INFO_META_KEY: client.model_dump(by_alias=True, mode="json", exclude_none=True),
            CLIENT_CAPABILITIES_META_KEY: {},
        }
        if is_modern
        else {},
    )


class _SdkDispatcher(Dispatcher[TransportContext]):
    """Our connection as the SDK's session wants to see it."""

    def __init__(self, connection: Requests) -> None:
        self._connection = connection

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout((opts or {}).get("timeout")):
                return await self._connection.request(
                    method, dict(params or {}), headers=(opts or {}).get("headers") or {}
                )
        except TimeoutError:
            raise MCPError(REQUEST_TIMEOUT, f"no answer to {method}") from None
        except ErrorAnswer as error:
            raise MCPError(error.code, error.message, error.data) from None
        except (BrokenAnswer, StatusAnswer, ResultTooLarge) as error:
            raise MCPError(INVALID_REQUEST, str(error)) from None

    async def notify(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> None:
        headers = (opts or {}).get("headers") or {}
        self._connection.notify(method, dict(params or {}), headers=headers)

    async def run(
        self,
        on_request: OnRequest,
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Do nothing: the connection reads its messages by itself."""
        task_status.started()
        await anyio.sleep_forever()
