"""JSON as the wire allows it: what msgspec accepts, less what makes trouble further in.

Refused besides plain bad syntax: nesting over 64 levels, more than 100,000 values, and
integers over 400 digits. NaN, Infinity, lone surrogates, invalid UTF-8 and floats out of
range msgspec refuses by itself; of duplicate keys the last wins.

The limits are checked before anything is decoded, by whole passes over the bytes: a frame
of the largest size costs some tens of milliseconds, however it was made.
"""

import re
from typing import Any

import msgspec

from exai.core.errors import MalformedFrame

MAX_DEPTH = 64
MAX_VALUES = 100_000
MAX_INTEGER_DIGITS = 400

_MAX_QUOTES = 4 * MAX_VALUES  # of a key and a value each
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_BRACKETS_ALIKE = bytes.maketrans(b"{}", b"[]")
_DIGITS_ALIKE = bytes.maketrans(b"123456789", b"000000000")
_LONG_RUN = b"0" * (MAX_INTEGER_DIGITS + 1)
_LONG_INTEGER = re.compile(rb"(?<![0.])0{%d}" % (MAX_INTEGER_DIGITS + 1))

_decode_any = msgspec.json.Decoder().decode


def check_limits(frame: bytes) -> None:
    """Refuse JSON that is too deep, has too many values or too long a number.

    Raises `MalformedFrame`.
    """
    bracket_count = frame.count(b"{") + frame.count(b"[")
    if len(frame) <= MAX_INTEGER_DIGITS and bracket_count <= MAX_DEPTH:
        return
    structure = _outside_of_strings(frame)
    if structure.count(b",") + structure.count(b"[") + structure.count(b"{") > MAX_VALUES:
        raise _too_many_values()
    if bracket_count > MAX_DEPTH:
        _check_depth(structure)
    _check_digits(structure)


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


def _outside_of_strings(frame: bytes) -> bytes:
    """Return what stands outside of strings, each of which is one quotation mark here."""
    plain = frame
    if b"\\" in frame:
        plain = frame.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') > _MAX_QUOTES:
        raise _too_many_values()
    return b'"'.join(plain.split(b'"')[::2])


def _too_many_values() -> MalformedFrame:
    return MalformedFrame(f"more than {MAX_VALUES:,} values in one frame")


def _check_depth(structure: bytes) -> None:
    brackets = structure.translate(_BRACKETS_ALIKE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        brackets = brackets.replace(b"[]", b"")
    if brackets:
        raise MalformedFrame(f"JSON nested deeper than {MAX_DEPTH} levels, or brackets unmatched")


def _check_digits(structure: bytes) -> None:
    alike = structure.translate(_DIGITS_ALIKE)
    if _LONG_RUN in alike and _LONG_INTEGER.search(alike):
        raise MalformedFrame(f"an integer of more than {MAX_INTEGER_DIGITS} digits")
