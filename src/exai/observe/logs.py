"""The log: one line per fact, on standard error, from events and from libraries alike.

Knows which event has which name and how much it matters. Lines carry names, sizes and
durations, as events do; `docs/logs.md` has them all. Hears, never acts.
"""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, TextIO

import msgspec

from exai.core import events
from exai.core.clock import Clock, SystemClock
from exai.core.events import Event, EventSink
from exai.observe.line_writer import LineWriter
from exai.observe.log_lines import LogLines


class Fact(NamedTuple):
    """An event's name in the log, `room.fact`, and its level."""

    name: str
    level: int


FACTS: Mapping[type[Event], Fact] = {
    events.CallAccepted: Fact("calls.accepted", logging.DEBUG),
    events.CallRejected: Fact("calls.rejected", logging.DEBUG),
    events.CallSettled: Fact("calls.settled", logging.DEBUG),
    events.CallsRecovered: Fact("calls.recovered", logging.INFO),
    events.WorkEnded: Fact("calls.work_ended", logging.DEBUG),
    events.CallFailedInside: Fact("calls.failed_inside", logging.ERROR),
    events.SessionOpened: Fact("connections.session_opened", logging.INFO),
    events.SessionUnkept: Fact("connections.session_unkept", logging.WARNING),
    events.SessionResumed: Fact("connections.session_resumed", logging.INFO),
    events.SessionDetached: Fact("connections.session_detached", logging.INFO),
    events.TokenReplaced: Fact("connections.token_replaced", logging.INFO),
    events.TokenRotationFailed: Fact("connections.token_rotation_failed", logging.WARNING),
    events.SessionEnded: Fact("connections.session_ended", logging.INFO),
    events.ConnectionRefused: Fact("connections.refused", logging.WARNING),
    events.AccessOpened: Fact("connections.access_opened", logging.WARNING),
    events.PermitLeaked: Fact("calls.permit_leaked", logging.ERROR),
    events.MonitorFailed: Fact("observe.monitor_failed", logging.ERROR),
    events.CertificateLoaded: Fact("transports.certificate_loaded", logging.INFO),
    events.CertificateRefused: Fact("transports.certificate_refused", logging.ERROR),
    events.UpstreamStarted: Fact("upstream.started", logging.INFO),
    events.UpstreamDied: Fact("upstream.died", logging.WARNING),
    events.UpstreamGaveUp: Fact("upstream.gave_up", logging.ERROR),
    events.UpstreamStopped: Fact("upstream.stopped", logging.INFO),
    events.UpstreamSpoke: Fact("upstream.spoke", logging.INFO),
    events.UpstreamRestartAsked: Fact("upstream.restart_asked", logging.INFO),
    events.UpstreamsReloaded: Fact("upstream.reloaded", logging.INFO),
    events.ToolUnavailable: Fact("upstream.tool_unavailable", logging.WARNING),
    events.OfferUnavailable: Fact("upstream.offer_unavailable", logging.WARNING),
    events.UpstreamUnlisted: Fact("upstream.unlisted", logging.WARNING),
    events.ProviderStarted: Fact("providers.started", logging.INFO),
    events.ProviderDied: Fact("providers.died", logging.WARNING),
    events.DaemonOpened: Fact("daemon.opened", logging.INFO),
    events.DaemonReady: Fact("daemon.ready", logging.INFO),
    events.DaemonDraining: Fact("daemon.draining", logging.INFO),
    events.DaemonStopped: Fact("daemon.stopped", logging.INFO),
    events.UpgradeAsked: Fact("daemon.upgrade_asked", logging.INFO),
    events.UpgradeRefused: Fact("daemon.upgrade_refused", logging.ERROR),
    events.UpgradeAgreed: Fact("daemon.upgrade_agreed", logging.INFO),
    events.UpgradeAbandoned: Fact("daemon.upgrade_abandoned", logging.INFO),
    events.UpgradeFailed: Fact("daemon.upgrade_failed", logging.CRITICAL),
    events.DaemonFailed: Fact("daemon.failed", logging.CRITICAL),
    events.DaemonCutShort: Fact("daemon.cut_short", logging.ERROR),
}


class LogSink(EventSink):
    """Turns events into lines; one below the level costs a look into a table."""

    def __init__(self, writer: LineWriter, lines: LogLines, level: int) -> None:
        self._writer = writer
        self._lines = lines
        self._level = level

    def emit(self, event: Event) -> None:
        """Write one event as one line."""
        fact = FACTS.get(type(event)) or Fact(f"unnamed.{type(event).__name__}", logging.INFO)
        if fact.level < self._level:
            return
        fields = msgspec.structs.asdict(event)
        if "exception" in fields:
            fields["exc_info"] = fields.pop("exception")
        self._writer.write(self._lines.line(fact.level, fact.name, **fields))

    def close(self) -> None:
        """Write what waits, for a bounded time."""
        self._writer.close()


class LibraryHandler(logging.Handler):
    """Writes what libraries have to say through `logging` into the same log."""

    def __init__(self, writer: LineWriter, lines: LogLines) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(lines.formatter())
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record as one line."""
        self._writer.write(self.format(record).encode())


@contextmanager
def configure_logging(
    level: str = "info",
    stream: TextIO | None = None,
    clock: Clock | None = None,
    *,
    colors: bool = True,
) -> Iterator[LogSink]:
    """Write the process's log to a stream (standard error) while the context is open.

    JSON, or words where the stream is a terminal. `level` is a name of `logging`.
    """
    target = stream or sys.stderr
    lines = LogLines(clock or SystemClock(), for_people=target.isatty(), colors=colors)

    def note_of_loss(count: int) -> bytes:
        return lines.line(logging.WARNING, "observe.lines_lost", count=count)

    writer = LineWriter(target.fileno(), note_of_loss)
    handler = LibraryHandler(writer, lines)
    root = logging.getLogger()
    root.addHandler(handler)
    logging.captureWarnings(True)
    sink = LogSink(writer, lines, logging.getLevelNamesMapping()[level.upper()])
    try:
        yield sink
    finally:
        logging.captureWarnings(False)
        root.removeHandler(handler)
        sink.close()
