"""Server-sent events of an MCP server: bytes go in, the messages in them come out. No I/O.

Follows the WHATWG's format but for a lone CR, which no server sends as a line's end. Knows
what a stream is resumed with; knows nothing of what the messages say.
"""

from collections.abc import Iterator

from exai.upstream.line_splitter import LineSplitter, Overlong

_FIELD_BYTES = 64
_MAX_ID_BYTES = 4096
_DATA = b"data:"


class EventStream:
    """Remembers at most one unfinished event, of at most `max_event_bytes`.

    `last_event_id` and `retry_s` are what the server said last, from one connection to the
    next; `event_count` is how many events there were.
    """

    def __init__(self, max_event_bytes: int) -> None:
        self.last_event_id: str | None = None
        self.retry_s: float | None = None
        self.event_count = 0
        self._max_event_bytes = max_event_bytes
        self._splitter = LineSplitter(max_event_bytes + _FIELD_BYTES)
        self._id: str | None = None
        self._data: bytearray | Overlong | None = None
        self._is_message = True

    def begin(self) -> None:
        """Forget what was unfinished: another connection goes on."""
        self._splitter = LineSplitter(self._max_event_bytes + _FIELD_BYTES)
        self._id = self.last_event_id
        self._clear()

    def feed(self, chunk: bytes) -> Iterator[bytearray | Overlong]:
        """Yield the message of every event that `chunk` completes."""
        for line in self._splitter.feed(chunk):
            if isinstance(line, Overlong):
                self._take_overlong(line)
            elif text := line.removesuffix(b"\r"):
                self._take(bytes(text) if len(text) < _FIELD_BYTES else text)
            else:
                yield from self._end_event()

    def _take(self, line: bytes | bytearray) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._grow(bytearray(value))
        elif name == b"event":
            self._is_message = value in (b"", b"message")
        elif name == b"id" and b"\0" not in value and len(value) <= _MAX_ID_BYTES:
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            self.retry_s = int(value) / 1000

    def _take_overlong(self, line: Overlong) -> None:
        if line.head.startswith(_DATA):
            self._data = line._replace(head=line.head.removeprefix(_DATA).lstrip(b" "))

    def _grow(self, more: bytearray) -> None:
        if self._data is None:
            self._data = more
        elif isinstance(self._data, bytearray):
            self._data += b"\n" + more
            if len(self._data) > self._max_event_bytes:
                self._data = Overlong(bytes(self._data[:4096]), b"", len(self._data))

    def _end_event(self) -> Iterator[bytearray | Overlong]:
        self.last_event_id = self._id
        if self._data is not None:
            self.event_count += 1
            if self._is_message and self._data:
                yield self._data
        self._clear()

    def _clear(self) -> None:
        self._data = None
        self._is_message = True
