"""JSON-RPC messages of MCP, as far as calls of tools need them."""

import json
from typing import Any

import msgspec

from bench.load.caller import Answer, Call, arguments_json

MODERN_VERSION = "2026-07-28"
SESSION_VERSION = "2025-11-25"
_CLIENT = {"name": "bench", "version": "1"}
_MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
    "io.modelcontextprotocol/clientInfo": _CLIENT,
    "io.modelcontextprotocol/clientCapabilities": {},
}
_MODERN_META_JSON = json.dumps(_MODERN_META)


class _Block(msgspec.Struct, frozen=True):
    text: str = ""


class _Result(msgspec.Struct, frozen=True, rename="camel"):
    content: list[_Block] = []
    is_error: bool = False


class _Error(msgspec.Struct, frozen=True):
    code: int
    message: str


class _Message(msgspec.Struct, frozen=True):
    id: str | int | None = None
    result: _Result | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Message).decode


def request(method: str, **params: Any) -> bytes:
    """Return a request whose answer is the first."""
    return json.dumps({"jsonrpc": "2.0", "id": "0", "method": method, "params": params}).encode()


def initialize() -> bytes:
    """Return the request that opens a session."""
    return request(
        "initialize", protocolVersion=SESSION_VERSION, capabilities={}, clientInfo=_CLIENT
    )


def discover() -> bytes:
    """Return the request that a client of 2026 may begin with."""
    return request("server/discover", _meta=_MODERN_META)


INITIALIZED = b'{"jsonrpc":"2.0","method":"notifications/initialized"}'


def call_request(call: Call, *, is_modern: bool = False) -> bytes:
    """Return the request that calls a tool."""
    meta = f',"_meta":{_MODERN_META_JSON}' if is_modern else ""
    return (
        f'{{"jsonrpc":"2.0","id":"{call.request_id}","method":"tools/call","params":'
        f'{{"name":"{call.tool}","arguments":{arguments_json(call)}{meta}}}}}'
    ).encode()


def read_answer(message: bytes) -> Answer:
    """Return what a call brought."""
    said = _decode(message)
    request_id = str(said.id)
    if said.result is None or said.result.is_error:
        return Answer(request_id, "", str(said.error.code) if said.error else "tool error")
    return Answer(request_id, "".join(block.text for block in said.result.content))
