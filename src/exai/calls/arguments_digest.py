"""Equal work has equal digests: the canonical identity of arguments, and of a request.

Keys are sorted, integers exact at any size, and a float equals an integer only if it is
integral and below 2**53, where both are exact.
"""

import hashlib
import sys
from typing import Any

import msgspec

from exai.core.requests import CallTool

_encode = msgspec.json.Encoder(order="sorted").encode
_EXACT_BELOW = 2**53
_OF_ONE_REQUEST = {"traceparent", "tracestate", "baggage", "claudecode/toolUseId"}
"""Keys of a `_meta` that name one request, and say nothing of its work."""
_LEAVES = (str, int, bool, type(None))
"""Types of values that are canonical as they are, and nearly all that calls are made of."""


def size_bytes_of(value: Any) -> int:
    """Return how much memory a JSON value takes."""
    size_bytes = sys.getsizeof(value)
    if type(value) is dict:
        for key, inner in value.items():
            is_leaf = type(inner) in _LEAVES
            size_bytes += sys.getsizeof(key)
            size_bytes += sys.getsizeof(inner) if is_leaf else size_bytes_of(inner)
    elif type(value) is list:
        size_bytes += sum(map(size_bytes_of, value))
    return size_bytes


def arguments_digest(arguments: dict[str, Any]) -> bytes:
    """Return the SHA-256 over canonical arguments."""
    return hashlib.sha256(_encode(_canonical(arguments))).digest()


def digest_of_request(request: CallTool, digest_of_arguments: bytes | None = None) -> bytes:
    """Return the SHA-256 over a request's name, its arguments and what was asked for beside."""
    content = digest_of_arguments or arguments_digest(request.arguments)
    if request.input:
        content += arguments_digest(request.input)
    return hashlib.sha256(content + request.name.encode()).digest()


def digest_of_work(request: CallTool, digest_of_arguments: bytes) -> bytes:
    """Return what identifies the work of a request among those of its tool."""
    if not request.meta and not request.input:
        return digest_of_arguments
    meta = {k: v for k, v in request.meta.items() if k not in _OF_ONE_REQUEST}
    return hashlib.sha256(
        digest_of_arguments + arguments_digest(meta) + arguments_digest(request.input)
    ).digest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: inner if type(inner) in _LEAVES else _canonical(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_BELOW:
        return int(value)
    return value
