"""The envelope of MCP: JSON-RPC 2.0 messages, and the errors that answer them.

Knows nothing of methods, eras or sockets.
"""

from typing import Any, NamedTuple

import msgspec

from exai.core.mcp_words import INVALID_PARAMS, INVALID_REQUEST
from exai.core.message_ids import Id, usable_id

_encode = msgspec.json.Encoder().encode


class McpError(Exception):
    """An error of the protocol; `data` is told where it is not None."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class McpRequest(NamedTuple):
    """What waits for an answer under its id."""

    id: Id
    method: str
    params: dict[str, Any]


class McpNotification(NamedTuple):
    """What has no answer."""

    method: str
    params: dict[str, Any]


class McpResponse(NamedTuple):
    """What the other side answers to a request of ours."""

    id: Id
    result: dict[str, Any] | None
    error: dict[str, Any] | None


class NotAMessage(McpError):
    """A message that cannot be read; `id` is whom the error must reach, if that can be told."""

    def __init__(self, message: str, id_: Id | None, code: int = INVALID_REQUEST) -> None:
        super().__init__(code, message)
        self.id = id_


def read_message(message: Any) -> McpRequest | McpNotification | McpResponse:
    """Read one decoded message. Raises `NotAMessage`."""
    if isinstance(message, list):
        raise NotAMessage("batches are not part of this protocol", None)
    if not isinstance(message, dict):
        raise NotAMessage("a message is a JSON object", None)
    id_ = usable_id(message.get("id"))
    if message.get("jsonrpc") != "2.0":
        raise NotAMessage("the message is not of JSON-RPC 2.0", id_)
    method, params = message.get("method"), message.get("params")
    if method is None and ("result" in message or "error" in message):
        return _response(message, id_)
    if not isinstance(method, str):
        raise NotAMessage("the message has no method", id_)
    if "id" in message and id_ is None:
        raise NotAMessage("a request id is a text or an integer", None)
    if params is None:
        params = {}
    if not isinstance(params, dict):
        raise NotAMessage("the params are no object", id_, INVALID_PARAMS)
    return McpNotification(method, params) if id_ is None else McpRequest(id_, method, params)


def _response(message: dict[str, Any], id_: Id | None) -> McpResponse:
    result, error = message.get("result"), message.get("error")
    if id_ is None:
        raise NotAMessage("a response needs the id of its request", None)
    return McpResponse(
        id_,
        result if isinstance(result, dict) else None,
        error if isinstance(error, dict) else None,
    )


def encode_request(id_: Id, method: str, params: dict[str, Any]) -> bytes:
    """Write what waits for an answer."""
    return _encode({"jsonrpc": "2.0", "id": id_, "method": method, "params": params})


def encode_result(id_: Id, result: dict[str, Any]) -> bytes:
    """Write the answer to a request."""
    return _encode({"jsonrpc": "2.0", "id": id_, "result": result})


def encode_error(id_: Id | None, error: McpError) -> bytes:
    """Write the refusal of a request; without an id where it cannot be told whose."""
    body = {"code": error.code, "message": error.message}
    if error.data is not None:
        body["data"] = error.data
    return _encode({"jsonrpc": "2.0", "id": id_, "error": body})


def encode_notification(method: str, params: dict[str, Any] | None = None) -> bytes:
    """Write what has no answer."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if params:
        message["params"] = params
    return _encode(message)
