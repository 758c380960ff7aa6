"""JSON as the wire allows it: what msgspec accepts, less what makes trouble further in.

Refused besides plain bad syntax: nesting over 64 levels and integers over 400 digits.
NaN, Infinity, lone surrogates, invalid UTF-8 and floats out of range msgspec refuses by
itself; of duplicate keys the last wins.
"""

import re
from typing import Any

import msgspec

from exai.core.errors import MalformedFrame

MAX_DEPTH = 64
MAX_INTEGER_DIGITS = 400

_LONG_DIGITS = re.compile(rb"[0-9]{%d}" % (MAX_INTEGER_DIGITS + 1))
_STRING_OR_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]', re.DOTALL)

_decode_any = msgspec.json.Decoder().decode


def check_limits(frame: bytes) -> None:
    """Refuse JSON that is too deep or holds too long a number; raises `MalformedFrame`."""
    if frame.count(b"{") + frame.count(b"[") > MAX_DEPTH:
        _check_depth(frame)
    if len(frame) > MAX_INTEGER_DIGITS and _LONG_DIGITS.search(frame):
        _check_digits(frame)


def decode_object(frame: bytes) -> dict[str, Any]:
    """Decode one JSON object; raises `MalformedFrame`."""
    check_limits(frame)
    try:
        value = _decode_any(frame)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedFrame(f"not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise MalformedFrame(f"a JSON object is expected, not {type(value).__name__}")
    return value


def _check_depth(frame: bytes) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(frame):
        token = match[0]
        if token in (b"{", b"["):
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedFrame(f"JSON nested deeper than {MAX_DEPTH} levels")
        elif token in (b"}", b"]"):
            depth -= 1


def _check_digits(frame: bytes) -> None:
    outside_strings = _STRING_OR_BRACKET.sub(b" ", frame)
    if _LONG_DIGITS.search(outside_strings):
        raise MalformedFrame(f"a number of more than {MAX_INTEGER_DIGITS} digits")
