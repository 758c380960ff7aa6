"""What each MCP server said lately, and when it started and ended, in memory.

Hears events; knows nothing of who asks for the lines.
"""

from collections import deque

from exai.core.clock import Clock
from exai.core.events import (
    Event,
    EventSink,
    UpstreamDied,
    UpstreamGaveUp,
    UpstreamSpoke,
    UpstreamStarted,
    UpstreamStopped,
)
from exai.core.upstream_reports import LogLine, UpstreamLog

KEPT_LINES = 1000
"""Of each server; a line has at most 2,000 bytes (`upstream.speech`)."""
_MAX_SERVERS = 256
_OF_SERVERS = (UpstreamSpoke, UpstreamStarted, UpstreamDied, UpstreamGaveUp, UpstreamStopped)


class _Lines:
    def __init__(self) -> None:
        self.count = 0
        self.kept: deque[LogLine] = deque(maxlen=KEPT_LINES)


class UpstreamLogs(EventSink):
    """The last lines of each server, also of one that was removed since."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._by_server: dict[str, _Lines] = {}

    def emit(self, event: Event) -> None:
        """Keep what an event says of a server."""
        if not isinstance(event, _OF_SERVERS):  # as nearly all are, of each call some
            return
        match event:
            case UpstreamSpoke(upstream=name, line=text):
                self._keep(name, text)
            case UpstreamStarted(upstream=name, pid=pid):
                self._keep(name, f"[started: pid {pid}]" if pid else "[connected]")
            case UpstreamDied(upstream=name, reason=reason, retry_s=retry_s):
                self._keep(name, f"[{reason}; started again in {retry_s:.1f} s]")
            case UpstreamGaveUp(upstream=name, reason=reason, retry_s=retry_s):
                self._keep(name, f"[{reason}; given up, tried again in {retry_s:.0f} s]")
            case UpstreamStopped(upstream=name, pid=pid, reason=reason):
                self._keep(name, f"[stopped{f': pid {pid}' if pid else ''}: {reason}]")

    def tail(self, name: str, count: int, after: int = 0) -> UpstreamLog:
        """Return the last lines of a server, at most `count`, of those after number `after`."""
        lines = self._by_server.get(name) or _Lines()
        if after > lines.count:
            after = 0  # the numbers have begun anew
        new = [line for line in lines.kept if line.number > after]
        return UpstreamLog(new[-count:] if count else [], lines.count)

    def _keep(self, name: str, text: str) -> None:
        lines = self._by_server.pop(name, None) or _Lines()
        self._by_server[name] = lines
        if len(self._by_server) > _MAX_SERVERS:
            del self._by_server[next(iter(self._by_server))]
        lines.count += 1
        lines.kept.append(LogLine(lines.count, self._clock.wall_s(), text))
