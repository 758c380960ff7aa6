"""Bytes of an event stream, whole and in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exai.providers.event_stream import EventStreamDecoder, EventTooLarge


def decode(*chunks: bytes, max_event_bytes: int = 1000) -> list[bytes]:
    decoder = EventStreamDecoder(max_event_bytes)
    return [data for chunk in chunks for data in decoder.feed(chunk)]


def test_each_event_yields_its_data() -> None:
    assert decode(b'data: {"a":1}\n\ndata: [DONE]\n\n') == [b'{"a":1}', b"[DONE]"]


def test_a_space_after_the_colon_is_optional_and_only_one_is_taken() -> None:
    assert decode(b"data:x\n\ndata:  y\n\n") == [b"x", b" y"]


def test_lines_may_end_with_cr_lf() -> None:
    assert decode(b"data: x\r\n\r\ndata: y\r\n\r\n") == [b"x", b"y"]


def test_several_data_lines_make_one_event() -> None:
    assert decode(b"data: one\ndata: two\n\n") == [b"one\ntwo"]


def test_comments_names_and_empty_events_are_skipped() -> None:
    assert decode(b": ping\n\nevent: message\nid: 7\ndata: x\nretry: 5\n\n\n\n") == [b"x"]


def test_an_unfinished_event_is_none() -> None:
    assert decode(b"data: x\n") == []


@given(
    st.lists(st.binary(max_size=40).filter(lambda b: b"\n" not in b and b"\r" not in b)), st.data()
)
def test_where_the_bytes_are_cut_makes_no_difference(
    texts: list[bytes], draw: st.DataObject
) -> None:
    stream = b"".join(b"data: " + text + b"\r\n\r\n" for text in texts)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    parts = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert decode(*parts) == texts


def test_a_line_without_an_end_is_not_kept_beyond_the_limit() -> None:
    with pytest.raises(EventTooLarge):
        decode(b"data: ", *[b"x" * 100] * 11, max_event_bytes=1000)


def test_an_event_of_endless_lines_is_not_kept_beyond_the_limit() -> None:
    with pytest.raises(EventTooLarge):
        decode(*[b"data: x\n"] * 200, max_event_bytes=1000)


def test_many_events_are_no_large_event() -> None:
    assert len(decode(*[b"data: x\n\n"] * 500, max_event_bytes=1000)) == 500
