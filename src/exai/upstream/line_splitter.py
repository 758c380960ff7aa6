"""Bytes in, lines out, with a bound: a line that grows too long is dropped as it streams.

Knows newlines and sizes; knows nothing of what a line means or where bytes come from.
"""

from collections.abc import Iterator
from typing import NamedTuple

_KEPT_BYTES = 4096


class Overlong(NamedTuple):
    """What is kept of a line that was too long: its first and its last bytes."""

    head: bytes
    tail: bytes
    size_bytes: int


class LineSplitter:
    """Collects chunks into lines of at most `max_line_bytes`."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._line = bytearray()
        self._overlong: Overlong | None = None

    @property
    def overgrown(self) -> Overlong | None:
        """The line that has not ended yet, where it is too long already."""
        return self._overlong

    def feed(self, chunk: bytes) -> Iterator[bytearray | Overlong]:
        """Yield the lines that end in `chunk`, without their newline."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._extend(end)
            yield self._take()
        self._extend(rest)

    def _extend(self, piece: bytes) -> None:
        if self._overlong is not None:
            head, tail, size_bytes = self._overlong
            tail = (tail + piece)[-_KEPT_BYTES:]
            self._overlong = Overlong(head, tail, size_bytes + len(piece))
            return
        self._line += piece
        if len(self._line) > self._max_line_bytes:
            head, tail = bytes(self._line[:_KEPT_BYTES]), bytes(self._line[-_KEPT_BYTES:])
            self._overlong = Overlong(head, tail, len(self._line))
            self._line = bytearray()

    def _take(self) -> bytearray | Overlong:
        line, self._line = self._overlong or self._line, bytearray()
        self._overlong = None
        return line
