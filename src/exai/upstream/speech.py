"""What a server says to people, on stderr or where it should not: cut, escaped, not too much.

Knows lines and a rate; knows nothing of where they are shown.
"""

from exai.core.clock import Clock
from exai.core.events import EventSink, UpstreamSpoke
from exai.core.foreign_text import escaped

MAX_LINE_BYTES = 2000
_BURST = 100
_LINES_PER_S = 10.0


class Speech:
    """Turns a server's lines into events, at most so many in a while."""

    def __init__(self, upstream: str, events: EventSink, clock: Clock) -> None:
        self._upstream = upstream
        self._events = events
        self._clock = clock
        self._tokens = float(_BURST)
        self._filled_at = clock.monotonic_s()
        self._left_out = 0

    def may_speak(self) -> bool:
        """Tell whether the next line would be an event."""
        now = self._clock.monotonic_s()
        self._tokens = min(_BURST, self._tokens + (now - self._filled_at) * _LINES_PER_S)
        self._filled_at = now
        return self._tokens >= 1

    def say(self, line: bytes | bytearray) -> None:
        """Emit one line, or count it as left out."""
        if not line[:MAX_LINE_BYTES].strip():
            return
        if not self.may_speak():
            self._left_out += 1
            return
        self._tokens -= 1
        if self._left_out:
            self._emit(f"[{self._left_out:,} lines were left out]")
            self._left_out = 0
        self._emit(shown(line))

    def leave_out(self, line_count: int) -> None:
        """Count lines that nobody will read."""
        self._left_out += line_count

    def _emit(self, line: str) -> None:
        self._events.emit(UpstreamSpoke(upstream=self._upstream, line=line))


def shown(foreign: bytes | bytearray) -> str:
    """Return foreign text cut to `MAX_LINE_BYTES`, safe to show on a terminal."""
    text = escaped(bytes(foreign[:MAX_LINE_BYTES]).decode(errors="replace").strip())
    return text if len(foreign) <= MAX_LINE_BYTES else text + " …"
