"""JSON that would make trouble further in is refused at the door."""

import pytest

from exai.core.errors import MalformedFrame
from exai.protocols.strict_json import decode_object

ODD = {
    "not a number": b'{"a":NaN}',
    "infinity": b'{"a":-Infinity}',
    "a float out of range": b'{"a":1e400}',
    "a lone high surrogate": b'{"a":"\\ud800"}',
    "a lone low surrogate": b'{"a":"\\udc00x"}',
    "invalid utf-8": b'{"a":"\xff"}',
    "an encoded surrogate": b'{"a":"\xed\xa0\x80"}',
    "a byte order mark": b"\xef\xbb\xbf{}",
    "a control character in a string": b'{"a":"\x01"}',
    "trailing characters": b"{}x",
    "nothing": b"",
    "an array": b"[1]",
    "a bare string": b'"a"',
    "a number of 401 digits": b'{"a":' + b"1" * 401 + b"}",
    "a negative number of 401 digits": b'{"a":-' + b"1" * 401 + b"}",
    "65 levels": b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    "100,000 levels": b"[" * 100_000,
}


@pytest.mark.parametrize("frame", ODD.values(), ids=ODD.keys())
def test_odd_json_is_malformed(frame: bytes) -> None:
    with pytest.raises(MalformedFrame):
        decode_object(frame)


def test_what_is_odd_only_inside_a_string_is_accepted() -> None:
    text = "[{" * 100 + "7" * 500
    assert decode_object(b'{"a":"%s","b":[]}' % text.encode()) == {"a": text, "b": []}


def test_an_escaped_quote_does_not_end_the_string() -> None:
    frame = rb'{"a":"\"' + b"[" * 100 + rb'\\","b":1}'
    assert decode_object(frame)["b"] == 1


def test_64_levels_and_400_digits_are_accepted() -> None:
    frame = b'{"a":' + b"[" * 63 + b"1" * 400 + b"]" * 63 + b"}"
    value = decode_object(frame)["a"]
    for _ in range(63):
        value = value[0]
    assert value == int("1" * 400)


def test_many_shallow_brackets_are_not_deep() -> None:
    assert len(decode_object(b'{"a":[' + b",".join([b"[]"] * 1000) + b"]}")["a"]) == 1000


def test_of_duplicate_keys_the_last_wins() -> None:
    assert decode_object(b'{"a":1,"a":2}') == {"a": 2}
