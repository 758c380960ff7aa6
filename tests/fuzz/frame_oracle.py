"""What docs/protocol.md says about a frame: read with another JSON parser, by other rules' words.

Where the page leaves a choice (a float out of range may pass where nobody reads it) there
are two readings, and the daemon may follow either.
"""

import json
import re
from typing import Any, NamedTuple

MAX_DEPTH, MAX_VALUES, MAX_DIGITS = 64, 100_000, 400
USABLE = re.compile(r"[!-~]{1,128}")
TIMELY_S = 60.0

NAMES_OF_OLD_CLIENTS = re.compile(r"[_-]EXAI[_-]WS\Z")
OUTCOMES = {
    "fast": {"ok"},
    "slow": {"ok"},
    "stubborn": {"ok"},
    "shared": {"ok"},
    "fail": {"TOOL_EXECUTION_ERROR"},
    "chat": {"VALIDATION_ERROR", "NOT_CONFIGURED"},
}
"""By tool; those of the tests take every object as arguments."""


class Expectation(NamedTuple):
    """The one reply that a frame gets.

    `kind` is the reply's op, or `call`, `lookup` (`cancel_tool`, `get_result`), `broken` (a
    request about a call that only a refusal can answer), `nothing` or `bye`.
    """

    kind: str
    request_id: str | None = None
    codes: frozenset[str] = frozenset()


class Malformed(Exception):
    """No JSON object of this protocol."""


class OutOfRange(float):
    """A float that no double can hold."""


class _Object(dict[str, Any]):
    """An object that knows how deep it is, and which keys have a float out of range.

    Duplicates that were lost count too.
    """

    depth = 1
    out_of_range: frozenset[str] = frozenset()


def parse(frame: bytes) -> _Object:
    """Read one object; raises `Malformed`."""
    try:
        text = frame.decode()
        if len(text) > MAX_VALUES and _value_count(text) > MAX_VALUES:
            raise Malformed
        value = _DECODER.decode(text)
        if not isinstance(value, _Object) or value.depth > MAX_DEPTH:
            raise Malformed
    except (ValueError, RecursionError):
        raise Malformed from None
    return value


def _value_count(text: str) -> int:
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', '"', text)
    return outside.count(",") + outside.count("[") + outside.count("{")


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    for key, value in pairs:
        key.encode()  # a lone surrogate is a `ValueError`
        depth, has_out_of_range = _measure(value)
        made.depth = max(made.depth, 1 + depth)
        if has_out_of_range:
            made.out_of_range |= {key}
    return made


def _measure(value: Any) -> tuple[int, bool]:
    match value:
        case _Object():
            return value.depth, bool(value.out_of_range)
        case list():
            inner = [_measure(each) for each in value]
            return 1 + max((d for d, _ in inner), default=0), any(odd for _, odd in inner)
        case str():
            value.encode()
    return 0, isinstance(value, OutOfRange)


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise Malformed
    return int(digits)


def _float(text: str) -> float:
    value = float(text)
    return OutOfRange(value) if value in (float("inf"), float("-inf")) else value


def _no_constant(_: str) -> float:
    raise Malformed


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_no_constant
)


def is_usable(value: Any) -> bool:
    return isinstance(value, str) and USABLE.fullmatch(value) is not None


def _is_id_or_absent(value: Any) -> bool:
    return value is None or is_usable(value)


def _is_text_or_absent(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return float(value) not in (float("inf"), float("-inf"))
    except OverflowError:
        return False


FIELDS: dict[str, dict[str, Any]] = {
    "call_tool": {
        "request_id": _is_id_or_absent,
        "name": lambda v: isinstance(v, str),
        "arguments": lambda v: isinstance(v, dict),
        "timeout_s": lambda v: v is None or (_is_number(v) and v > 0),
        "cache": lambda v: v in ("use", "refresh", "off"),
        "idempotency_key": _is_id_or_absent,
        "traceparent": _is_text_or_absent,
    },
    "cancel_tool": {"request_id": is_usable, "reason": _is_text_or_absent},
    "get_result": {"request_id": is_usable},
    "ack": {"request_ids": lambda v: isinstance(v, list) and all(map(is_usable, v))},
    "list_tools": {"request_id": _is_id_or_absent},
    "health": {"request_id": _is_id_or_absent},
    "rotate_token": {
        "request_id": _is_id_or_absent,
        "old": _is_text_or_absent,
        "new": _is_text_or_absent,
        "grace_s": lambda v: _is_number(v) and 0 <= v <= 31_536_000,
        "revoke_sessions": lambda v: isinstance(v, bool),
    },
    "bye": {},
}
REQUIRED = {
    "call_tool": {"name"},
    "cancel_tool": {"request_id"},
    "get_result": {"request_id"},
    "ack": {"request_ids"},
}
ABOUT_A_CALL = {"call_tool": "call", "cancel_tool": "lookup", "get_result": "lookup"}
MALFORMED = Expectation("error", None, frozenset({"PROTOCOL_ERROR"}))


def readings(frame: bytes) -> list[Expectation]:
    """Return what the page has in store for a text frame after the hello."""
    try:
        message = parse(frame)
    except Malformed:
        return [MALFORMED]
    op, expected = message.get("op"), _of_message(message)
    read = FIELDS.get(op, {}) if isinstance(op, str) else {}
    if message.out_of_range & {"op", *read}:
        return [MALFORMED]
    return [expected, MALFORMED] if message.out_of_range else [expected]


def _of_message(message: dict[str, Any]) -> Expectation:
    op, request_id = message.get("op"), message.get("request_id")
    usable_id = request_id if is_usable(request_id) else None
    if not isinstance(op, str) or op not in FIELDS:
        return Expectation("error", usable_id, frozenset({"PROTOCOL_ERROR"}))
    is_complete = REQUIRED.get(op, set()) <= message.keys()
    if not is_complete or not all(
        is_right(message[field]) for field, is_right in FIELDS[op].items() if field in message
    ):
        kind = "broken" if op in ABOUT_A_CALL and usable_id is not None else "error"
        return Expectation(kind, usable_id, frozenset({"INVALID_REQUEST"}))
    match op:
        case "call_tool":
            return Expectation("call", usable_id, frozenset(_outcomes(message)))
        case "cancel_tool" | "get_result":
            return Expectation("lookup", usable_id, frozenset({"RESULT_UNKNOWN"}))
        case "ack":
            return Expectation("nothing")
        case "bye":
            return Expectation("bye")
        case "rotate_token":
            is_there = bool(message.get("old")) and bool(message.get("new"))
            words = {"ok", "unauthorized", "weak_token"} if is_there else {"missing_params"}
            return Expectation("rotate_token_res", usable_id, frozenset(words))
    return Expectation(f"{op}_res", usable_id)


def _outcomes(message: dict[str, Any]) -> set[str]:
    name = NAMES_OF_OLD_CLIENTS.sub("", message["name"])
    arguments = message.get("arguments", {})
    fits = {
        "echo": arguments.keys() == {"text"} and isinstance(arguments.get("text"), str),
        "version": not arguments,
        "listmodels": not arguments,
    }
    if name in fits:
        codes = {"ok"} if fits[name] else {"VALIDATION_ERROR"}
    else:
        codes = OUTCOMES.get(name, {"TOOL_NOT_FOUND"})
    timeout_s = message.get("timeout_s")
    if timeout_s is not None and timeout_s < TIMELY_S:
        codes = codes | {"TIMEOUT", "OVER_CAPACITY"}
    if message.get("idempotency_key") is not None:
        codes = codes | {"REQUEST_ID_CONFLICT", "ok", "TOOL_EXECUTION_ERROR", "TIMEOUT"}
        codes |= {"CANCELLED", "RESULT_UNKNOWN"}  # what became of an earlier call with the key
    return codes


def reading_of_hello(frame: bytes, token: str | None) -> tuple[set[str], dict[str, Any]]:
    """Return the words that a first frame may be refused with, or `ok`; and what it says."""
    try:
        message = parse(frame)
    except Malformed:
        return {"invalid_hello"}, {}
    words = {"invalid_hello"} if message.out_of_range else set()
    if message.get("op") != "hello":
        return words | {"missing_hello"}, message
    is_let_in = message.get("token") == token
    return words | {"ok" if is_let_in else "unauthorized"}, message
