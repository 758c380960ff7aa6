"""Decoding what servers write, and telling whose answer an unreadable line was."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exai.upstream.messages import (
    MAX_VALUES,
    TooIntricate,
    Unreadable,
    decode_message,
    find_id,
    id_of,
    is_surely_no_answer,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), JSON))
async def test_any_json_object_is_decoded_as_it_is(message: dict[str, Any]) -> None:
    assert await decode_message(json.dumps(message).encode()) == message


@pytest.mark.parametrize(
    "line",
    [b"", b"Starting...", b"[]", b'"{}"', b"{", b'{"a":}', b'{"a":"\xff"}', b'{"a":NaN}',
     b'{"a":' * 5000, b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", b'{"a":1e400}', b"{}x"],
)  # fmt: skip
async def test_what_is_no_json_object_is_unreadable(line: bytes) -> None:
    with pytest.raises(Unreadable):
        await decode_message(line)


PIECES = [r"\ud83d", r"\ude00", r"\\", r"\"", "ud83d", r"\n", "é", r"\u00e9"]


@given(st.lists(st.sampled_from(PIECES)))
async def test_halves_of_characters_are_replaced_and_nothing_else_is(pieces: list[str]) -> None:
    line = '{"text":"' + "".join(pieces) + '"}'
    as_utf16 = json.loads(line)["text"].encode("utf-16", "surrogatepass")
    assert (await decode_message(line.encode()))["text"] == as_utf16.decode("utf-16", "replace")


async def test_more_values_than_can_be_decoded_at_once_are_refused() -> None:
    enough = b'{"a":[' + b"1," * (MAX_VALUES - 2) + b"1]}"
    assert len((await decode_message(enough))["a"]) == MAX_VALUES - 1
    for value in (b"[]", b"{}", b"1", b'"a"', b'"\\""', b"null"):
        with pytest.raises(TooIntricate):
            await decode_message(b'{"a":[' + (value + b",") * (MAX_VALUES + 1) + b"1]}")


async def test_more_escapes_than_can_be_decoded_at_once_are_refused() -> None:
    with pytest.raises(TooIntricate):
        await decode_message(b'{"a":"' + b"\\n" * 4_000_000 + b'"}')


@settings(max_examples=20)
@given(
    st.lists(st.sampled_from([b"\\\\", b'\\"', b"\\n", b",", b"[", b"x" * 1000]), min_size=1),
    st.sampled_from([b'{"a":["', b'{"ab":["', b'{"abc":["']),
)
async def test_values_are_told_from_text_wherever_a_slice_ends(
    pieces: list[bytes], head: bytes
) -> None:
    text = b"".join(pieces * (600_000 // len(b"".join(pieces))))
    few = await decode_message(head + text + b'"]}')
    assert list(few.values()) == [[json.loads(b'"' + text + b'"')]]
    with pytest.raises(TooIntricate):
        await decode_message(head + text + b'"' + b",1" * (MAX_VALUES + 1) + b"]}")


async def test_commas_inside_of_text_are_no_values() -> None:
    text = ",[{" * MAX_VALUES + '"\\'
    assert (await decode_message(msgspec.json.encode({"a": text, "b": [1, 2]})))["a"] == text


@pytest.mark.parametrize(
    "line",
    [
        '{"jsonrpc":"2.0","id":17,"result":{}}',
        '{"id":17,"jsonrpc":"2.0","result":{}}',
        ' {"id" : 17 , "error":{}}',
        '{"jsonrpc": "2.0", "id": "17", "result": {}}',
        '{"result":{},"jsonrpc":"2.0","id":17}',
        '{"result":{},"id":17,"jsonrpc":"2.0"} \r',
        '{"result":{"id":3,"x":{"id":4}},"id":17}',
    ],
)
def test_the_id_of_an_answer_is_found_at_either_end(line: str) -> None:
    assert find_id(line.encode(), line.encode()) == 17


@pytest.mark.parametrize(
    "line",
    [
        '{"result":{"id":17,"text":""}}',
        '{"result":{"text":"","id":17}}',
        '{"method":"x","params":{"id":17}}',
        '{"result":{"text":"\\",\\"id\\":17}"}}',
        '{"result":{},"id":null}',
        "no json at all",
    ],
)
def test_an_id_inside_of_the_answer_is_not_taken_for_its_own(line: str) -> None:
    assert find_id(line.encode(), line.encode()) is None


def test_a_line_that_begins_with_a_method_is_surely_no_answer() -> None:
    assert is_surely_no_answer(b'{"jsonrpc":"2.0","method":"notifications/message","params":')
    assert is_surely_no_answer(b'{"method": "x"')
    assert not is_surely_no_answer(b'{"result":{"method":"x"')


@pytest.mark.parametrize("value", ["x", None, True, 1.5, "\u0663", "9" * 5000, [7], {}])
def test_an_id_is_a_number_or_its_digits(value: Any) -> None:
    assert id_of(7) == id_of("7") == 7
    assert id_of(value) is None


@pytest.mark.parametrize("odd", [b"017", b'"\x01"', b'"\xff"', b'"a\\"', b"+1", b"1e3"])
def test_an_id_that_is_no_json_is_none(odd: bytes) -> None:
    line = b'{"id":%s,"result":{}}' % odd
    assert find_id(line, line) is None
