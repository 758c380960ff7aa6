"""The id of a JSON-RPC message, also of one that cannot be decoded."""

import re
from typing import Any

import msgspec

Id = int | str

_END_BYTES = 4096
_ID = rb'"id"\s*:\s*(-?(?:0|[1-9]\d{0,17})|"[ !#-\[\]-~]{1,256}")\s*'
_VERSION = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_ID_FIRST = re.compile(rb"\s*\{\s*(?:" + _VERSION + rb",\s*)?" + _ID + rb",")
_ID_LAST = re.compile(rb",\s*" + _ID + rb"(?:,\s*" + _VERSION + rb")?\}\s*\Z")


def usable_id(value: Any) -> Id | None:
    """Return a request id as it is, None where it cannot be one (`true` is no 1)."""
    is_id = isinstance(value, (int, str)) and not isinstance(value, bool)
    return value if is_id else None


def find_id(head: bytes | bytearray, tail: bytes | bytearray) -> Id | None:
    """Return the id of a message that cannot be decoded, by its first and last bytes.

    Only the outermost object's id can stand where this looks: right after the opening
    brace, or right before the closing one.
    """
    found = _ID_FIRST.match(head[:_END_BYTES]) or _ID_LAST.search(tail[-_END_BYTES:])
    return None if found is None else usable_id(msgspec.json.decode(found[1]))
