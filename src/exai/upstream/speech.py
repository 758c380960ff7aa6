"""What a server says to people, on stderr or where it should not: cut, escaped, not too much.

Knows lines and a rate; knows nothing of where they are shown.
"""

from exai.core.clock import Clock
from exai.core.events import EventSink, UpstreamSpoke
from exai.core.foreign_text import escaped
from exai.upstream.allowance import Allowance

MAX_LINE_BYTES = 2000


class Speech:
    """Turns a server's lines into events, at most so many in a while."""

    def __init__(self, upstream: str, events: EventSink, clock: Clock) -> None:
        self._upstream = upstream
        self._events = events
        self._allowance = Allowance(clock)

    def may_speak(self) -> bool:
        """Tell whether the next line would be an event."""
        return self._allowance.has_some()

    def say(self, line: bytes | bytearray) -> None:
        """Emit one line, or count it as left out."""
        if not line[:MAX_LINE_BYTES].strip() or not self._allowance.take():
            return
        if left_out := self._allowance.take_left_out():
            self._emit(f"[{left_out:,} lines were left out]")
        self._emit(shown(line))

    def leave_out(self, line_count: int) -> None:
        """Count lines that nobody will read."""
        self._allowance.leave_out(line_count)

    def _emit(self, line: str) -> None:
        self._events.emit(UpstreamSpoke(upstream=self._upstream, line=line))


def shown(foreign: bytes | bytearray) -> str:
    """Return foreign text cut to `MAX_LINE_BYTES`, safe to show on a terminal."""
    text = escaped(bytes(foreign[:MAX_LINE_BYTES]).decode(errors="replace").strip())
    return text if len(foreign) <= MAX_LINE_BYTES else text + " …"
