"""Equal work has equal digests: the canonical identity of a tool name and its arguments.

Keys are sorted, integers exact at any size, and a float equals an integer only if it is
integral and below 2**53, where both are exact.
"""

import hashlib
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="sorted").encode
_EXACT_BELOW = 2**53


def text_length(value: Any) -> int:
    """Return how many characters of text a JSON value holds."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(len, value)) + sum(map(text_length, value.values()))
    return sum(map(text_length, value)) if isinstance(value, list) else 0


def arguments_digest(tool_name: str, arguments: dict[str, Any]) -> bytes:
    """Return the SHA-256 over the length-prefixed name and canonical arguments."""
    name = tool_name.encode()
    digest = hashlib.sha256(len(name).to_bytes(8, "big") + name)
    digest.update(_encode(_canonical(arguments)))
    return digest.digest()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _canonical(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_canonical(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_BELOW:
        return int(value)
    return value
