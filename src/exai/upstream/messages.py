"""JSON-RPC messages as a server writes them: decoding, with bounds, and finding their id.

Knows JSON-RPC's envelope; knows nothing of MCP's methods or of who waits for an answer.
"""

import asyncio
import re
from typing import Any

import msgspec

from exai.core import message_ids

MAX_VALUES = 200_000
"""As many JSON values as can be decoded without holding the event loop for long."""

_MAX_ESCAPES = 3_000_000
_SURELY_EASY_BYTES = 131_072
_SLICE_BYTES = 262_144
_MENDED_BYTES = 1_048_576
_END_BYTES = 4096
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)((?:\\\\)*+)"
    rb"(?:(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})|\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_METHOD_FIRST = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb',\s*)?"method"\s*:')

_decode_any = msgspec.json.Decoder().decode


class Unreadable(Exception):
    """Not a JSON object, or one that is no use; `str()` says why."""


class TooIntricate(Exception):
    """Decoding would hold the event loop for too long; `str()` says of what there is too much."""


async def decode_message(line: bytes | bytearray) -> dict[str, Any]:
    """Decode one line, without holding the loop; raises `Unreadable`, `TooIntricate`."""
    if not line[:_END_BYTES].lstrip().startswith(b"{"):
        raise Unreadable("no JSON object")
    if len(line) > _SURELY_EASY_BYTES:
        await _check_effort(line)
    try:
        message: dict[str, Any] = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no valid JSON ({error})") from None
    return message


def id_of(value: Any) -> int | None:
    """Return a JSON-RPC id as we mint them; some servers give a number back as a string."""
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 19:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def find_id(head: bytes | bytearray, tail: bytes | bytearray) -> int | None:
    """Return the id of an answer that cannot be decoded, as we mint them."""
    return id_of(message_ids.find_id(head, tail))


def is_surely_no_answer(head: bytes) -> bool:
    """Tell whether a line that begins with `head` is a request or a notification."""
    return _METHOD_FIRST.match(head) is not None


def _decode(line: bytes | bytearray) -> Any:
    try:
        return _decode_any(line)
    except msgspec.DecodeError:
        # JavaScript cuts strings in the middle of a character, and escapes the half.
        if len(line) > _MENDED_BYTES or b"\\ud" not in line.lower():
            raise
        return _decode_any(_LONE_SURROGATE.sub(_mend_surrogate, line))


def _mend_surrogate(match: re.Match[bytes]) -> bytes:
    return match[1] + (match[2] or rb"\ufffd")


async def _check_effort(line: bytes | bytearray) -> None:
    """Count values and escapes; slice by slice, so that others have their turn."""
    values = escapes = inside = 0
    unfinished = b""
    for start in range(0, len(line), _SLICE_BYTES):
        text = unfinished + line[start : start + _SLICE_BYTES]
        whole = text.rstrip(b"\\")  # an escape may go on in the next slice
        unfinished = text[len(whole) :]
        escapes += whole.count(b"\\")
        parts = whole.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[inside::2])
        inside ^= len(parts) - 1 & 1
        values += sum(map(outside.count, (b",", b"[", b"{")))
        if values > MAX_VALUES or escapes > _MAX_ESCAPES:
            raise TooIntricate(f"more than {MAX_VALUES:,} values or {_MAX_ESCAPES:,} escapes")
        await asyncio.sleep(0)
