"""The headers of HTTP that go with MCP's messages, in both eras.

Knows what a message says of itself there, by the SDK's own rules; knows nothing of
connections. Imports the SDK: to be imported lazily, and in a thread.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mcp.client.streamable_http import LAST_EVENT_ID, MCP_SESSION_ID
from mcp.shared.inbound import (
    MCP_METHOD_HEADER,
    MCP_NAME_HEADER,
    MCP_PROTOCOL_VERSION_HEADER,
    NAME_BEARING_METHODS,
    encode_header_value,
    find_invalid_x_mcp_header,
    mcp_param_headers,
    x_mcp_header_map,
)

from exai.core.http_syntax import is_header_name, is_header_value
from exai.core.mcp_words import CALL_TOOL, INITIALIZE, VERSION_KEY, Era
from exai.upstream.carrier import CarrierUnusable, Message
from exai.upstream.sdk_eras import era_of
from exai.upstream.shown_url import secrets_in_url

_SESSION_ID = re.compile(r"[!-~]{1,1024}")
_OURS = ("connection", "content-length", "content-type", "transfer-encoding")
_SECRET_LENGTH = 6


class HttpHeaders:
    """What goes along, from what is configured, agreed, and in the message."""

    def __init__(self, configured: Mapping[str, str], url: str, user_agent: str) -> None:
        """Raise `CarrierUnusable` where a header cannot be sent."""
        for name, value in configured.items():
            if not is_header_name(name) or name.lower() in _OURS:
                raise CarrierUnusable(f"no header may be named {name!r}")
            if not is_header_value(value):
                raise CarrierUnusable(f"the value of the header {name} cannot be sent")
        self._always = {
            "user-agent": user_agent,
            **{name.lower(): value for name, value in configured.items()},
            "accept": "application/json, text/event-stream",
            "accept-encoding": "identity",
        }
        secrets = _secrets_in(configured.values()) | secrets_in_url(url)
        self._secrets = sorted(secrets, key=len, reverse=True)
        self._version: str | None = None
        self._param_headers: dict[str, dict[tuple[str, ...], str]] = {}
        self.session_id: str | None = None

    @property
    def era(self) -> Era:
        """The era of what was sent last."""
        return era_of(self._version)

    @property
    def has_session(self) -> bool:
        """Whether what is sent belongs to a session, which the server may forget."""
        return self.session_id is not None and self.era is Era.HANDSHAKE

    def of_message(self, message: Message) -> dict[str, str]:
        """Return the headers of a request or a notification; later ones follow its version."""
        version = message.headers.get(MCP_PROTOCOL_VERSION_HEADER) or _version_in(message)
        if message.method == INITIALIZE:
            self._version = None
        elif version is not None:
            self._version = version
        return {**self.of_answer(), **(self._routing(message) if self.era is Era.MODERN else {})}

    def of_answer(self) -> dict[str, str]:
        """Return the headers of what has no method."""
        return {**self.of_stream(None), "content-type": "application/json"}

    def of_stream(self, last_event_id: str | None) -> dict[str, str]:
        """Return the headers that ask for a stream, maybe to be resumed, or end the session."""
        headers = dict(self._always)
        if self._version is not None:
            headers[MCP_PROTOCOL_VERSION_HEADER] = self._version
        if self.session_id is not None and self.era is Era.HANDSHAKE:
            headers[MCP_SESSION_ID] = self.session_id
        if last_event_id is not None:
            headers[LAST_EVENT_ID] = last_event_id
        return headers

    def take_session_id(self, response_headers: Mapping[str, str]) -> None:
        """Take note of the session that the answer to `initialize` opened, if it did."""
        session_id = response_headers.get(MCP_SESSION_ID, "")
        self.session_id = session_id if _SESSION_ID.fullmatch(session_id) else None

    def know_tools(self, tools: Sequence[dict[str, Any]]) -> dict[str, str]:
        """Take note of the arguments that are also sent as headers; takes long.

        Return the tools that name a header wrongly, which must not be called, and why.
        """
        unusable, param_headers = {}, {}
        for tool in tools:
            name, schema = str(tool.get("name")), tool.get("inputSchema")
            if (fault := find_invalid_x_mcp_header(schema)) is not None:
                unusable[name] = fault
            elif header_map := x_mcp_header_map(schema):
                param_headers[name] = dict(header_map)
        self._param_headers = param_headers
        return unusable

    def without_secrets(self, text: str) -> str:
        """Return a server's words without what it may quote of our headers and its URL."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _routing(self, message: Message) -> dict[str, str]:
        headers = {MCP_METHOD_HEADER: message.method}
        name = message.params.get(NAME_BEARING_METHODS.get(message.method, ""))
        if isinstance(name, str):
            headers[MCP_NAME_HEADER] = encode_header_value(name)
            if message.method == CALL_TOOL and name in self._param_headers:
                arguments = message.params.get("arguments") or {}
                headers |= mcp_param_headers(self._param_headers[name], arguments)
        return headers


def _version_in(message: Message) -> str | None:
    version = message.params.get("_meta", {}).get(VERSION_KEY)
    return version if isinstance(version, str) else None


def _secrets_in(values: Iterable[str]) -> set[str]:
    parts = {part for value in values for part in (value, *value.split())}
    return {part for part in parts if len(part) > _SECRET_LENGTH}
