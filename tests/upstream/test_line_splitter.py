"""Lines come out whole whatever the chunks were; one too long leaves its ends only."""

from hypothesis import given
from hypothesis import strategies as st

from exai.upstream.line_splitter import LineSplitter, Overlong

MAX_BYTES = 10_000


@given(st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"-"))), st.data())
def test_lines_do_not_depend_on_how_they_arrive(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, seen = LineSplitter(MAX_BYTES), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        seen += [bytes(line) for line in splitter.feed(stream[:size])]  # type: ignore[arg-type]
        stream = stream[size:]
    assert seen == lines


def test_a_line_of_exactly_the_limit_is_whole() -> None:
    line = b"x" * MAX_BYTES
    assert list(LineSplitter(MAX_BYTES).feed(line + b"\n")) == [bytearray(line)]


@given(st.integers(1, 5_000))
def test_a_line_over_the_limit_keeps_head_and_tail_and_the_next_is_whole(chunk_bytes: int) -> None:
    long = b"head" + b"x" * 3 * MAX_BYTES + b"tail"
    stream = long + b"\nnext\n"
    splitter = LineSplitter(MAX_BYTES)
    starts = range(0, len(stream), chunk_bytes)
    seen = [line for at in starts for line in splitter.feed(stream[at : at + chunk_bytes])]
    overlong, following = seen
    assert isinstance(overlong, Overlong)
    assert overlong.head.startswith(b"headx")
    assert overlong.tail.endswith(b"xtail")
    assert overlong.size_bytes == len(long)
    assert following == bytearray(b"next")


def test_memory_does_not_grow_with_the_line() -> None:
    splitter = LineSplitter(MAX_BYTES)
    for _ in range(1000):
        assert list(splitter.feed(b"x" * 65_536)) == []
    (overlong,) = splitter.feed(b"\n")
    assert isinstance(overlong, Overlong)
    assert len(overlong.head) + len(overlong.tail) <= 8192
