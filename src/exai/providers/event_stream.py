"""Server-sent events: bytes go in, the data of each event comes out. No I/O.

Follows the WHATWG's format but for a lone CR, which no service sends as a line's end;
names, ids and retry times of events are not looked at.
"""

from collections.abc import Iterator


class EventTooLarge(ValueError):
    """One event is over the limit."""


class EventStreamDecoder:
    """Remembers at most one unfinished event, of at most `max_event_bytes`."""

    def __init__(self, max_event_bytes: int) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yield the data of every event that `chunk` completes. Raises `EventTooLarge`."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            self._grow(end)
            line = bytes(self._line).removesuffix(b"\r")
            self._line.clear()
            if line:
                self._take(line)
            elif self._data:
                yield b"\n".join(self._data)
                self._data.clear()
                self._size_bytes = 0
        self._grow(rest)

    def _grow(self, part: bytes) -> None:
        self._line += part
        if self._size_bytes + len(self._line) > self._max_event_bytes:
            raise EventTooLarge(f"one event has more than {self._max_event_bytes:,} bytes")

    def _take(self, line: bytes) -> None:
        field, _, text = line.partition(b":")
        if field == b"data":
            self._data.append(text.removeprefix(b" "))
            self._size_bytes += len(line)
