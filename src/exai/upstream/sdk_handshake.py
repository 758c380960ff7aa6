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
from mcp_types import REQUEST_TIMEOUT, Implementation
from pydantic import ValidationError

from exai.core.errors import ResultTooLarge
from exai.core.mcp_words import (
    CLIENT_CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    INVALID_REQUEST,
    UNSUPPORTED_PROTOCOL_VERSION,
    VERSION_KEY,
    Era,
)
from exai.upstream.handshake import NO_CAPABILITIES, HandshakeFailed, Terms
from exai.upstream.json_rpc import BrokenAnswer, ErrorAnswer, Requests, ServerLost, StatusAnswer
from exai.upstream.sdk_eras import era_of


async def negotiate(
    connection: Requests,
    client_version: str,
    discover: bool,
    capabilities: Mapping[str, Any] = NO_CAPABILITIES,
) -> Terms:
    """Return what was agreed with the server; raises `HandshakeFailed`."""
    client = Implementation(name="exai", version=client_version)
    declared = dict(capabilities)
    dispatcher = _SdkDispatcher(connection, declared)
    async with ClientSession(dispatcher=dispatcher, client_info=client) as session:
        # A failure leaves the session as a value: an exception would be wrapped in a group.
        agreed = await _agree(session, client, discover, declared)
    if isinstance(agreed, HandshakeFailed):
        raise agreed
    return agreed


async def _agree(
    session: ClientSession, client: Implementation, discover: bool, declared: dict[str, Any]
) -> Terms | HandshakeFailed:
    try:
        await (_discover_or_initialize(session) if discover else _initialize(session))
    except (MCPError, ValidationError, RuntimeError, ServerLost) as error:
        return HandshakeFailed(str(error))
    return _terms_of(session, client, declared)


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


def _terms_of(session: ClientSession, client: Implementation, declared: dict[str, Any]) -> Terms:
    version = session.protocol_version or ""
    era = era_of(version)
    offered = session.server_capabilities
    return Terms(
        protocol_version=version,
        server_version=session.server_info.version if session.server_info else "",
        era=era,
        capabilities=offered.model_dump(by_alias=True, mode="json", exclude_none=True)
        if offered
        else {},
        request_meta={
            VERSION_KEY: version,
            CLIENT_INFO_KEY: client.model_dump(by_alias=True, mode="json", exclude_none=True),
            CLIENT_CAPABILITIES_KEY: declared,
        }
        if era is Era.MODERN
        else {},
    )


class _SdkDispatcher(Dispatcher[TransportContext]):
    """Our connection as the SDK's session wants to see it.

    The SDK knows capabilities as callbacks of its own; the server is told of `capabilities`.
    """

    def __init__(self, connection: Requests, capabilities: dict[str, Any]) -> None:
        self._connection = connection
        self._capabilities = capabilities

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout((opts or {}).get("timeout")):
                return await self._connection.request(
                    method,
                    self._declaring(dict(params or {})),
                    headers=(opts or {}).get("headers") or {},
                )
        except TimeoutError:
            raise MCPError(REQUEST_TIMEOUT, f"no answer to {method}") from None
        except ErrorAnswer as error:
            raise MCPError(error.code, error.message, error.data) from None
        except (BrokenAnswer, StatusAnswer, ResultTooLarge) as error:
            raise MCPError(INVALID_REQUEST, str(error)) from None

    def _declaring(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return params that declare the capabilities, wherever these declare any."""
        if "capabilities" in params:
            return {**params, "capabilities": self._capabilities}
        meta = params.get("_meta") or {}
        if CLIENT_CAPABILITIES_KEY not in meta:
            return params
        return {**params, "_meta": {**meta, CLIENT_CAPABILITIES_KEY: self._capabilities}}

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
