"""How a fact becomes a line, by structlog's processors and a few of our own.

JSON for machines, words for a terminal. Knows names, levels and plain values; knows nothing
of events or of where lines go. Foreign text is escaped and cut, so that no peer or tool can
draw on a terminal or fill a disk. Of an exception a line tells where it came from and what
kind it is, never its message: that may quote what was said to a tool.
"""

import errno
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import ExceptionRenderer, JSONRenderer
from structlog.stdlib import ProcessorFormatter, add_log_level
from structlog.typing import EventDict, ExcInfo, Processor, WrappedLogger

from exai.core.clock import Clock
from exai.core.foreign_text import escaped

_MAX_TEXT = 4_000
_MAX_TRACEBACK = 20_000
_MAX_FRAMES = 30
_MAX_CAUSES = 10
_LIBRARY_MESSAGE_LENGTH = 200
_EVENT_WIDTH = 28


class LogLines:
    """Turns facts into lines; `for_people` says how they look, `colors` who may see colours."""

    def __init__(self, clock: Clock, *, for_people: bool, colors: bool = False) -> None:
        self.processors: Sequence[Processor] = (
            add_log_level,
            _TimeFirst(clock, _time_of_day if for_people else _timestamp),
            _tamed,
            ExceptionRenderer(_origin_of),
            _words(colors=colors) if for_people else JSONRenderer(_as_json),
        )

    def line(self, level: int, event: str, **fields: Any) -> bytes:
        """Return one fact as one line; an exception stands in `exc_info`."""
        method, line = logging.getLevelName(level).lower(), {"event": event, **fields}
        for process in self.processors:
            line = process(None, method, line)  # type: ignore[assignment]  # text at the end
        return str(line).encode()

    def formatter(self) -> logging.Formatter:
        """Return what makes the same kind of line of a library's record."""
        return ProcessorFormatter(
            use_get_message=False,
            pass_foreign_args=True,
            foreign_pre_chain=[_heard],
            processors=[ProcessorFormatter.remove_processors_meta, *self.processors],
        )


class _TimeFirst:
    """Adds the time, and puts first what a reader looks for first."""

    def __init__(self, clock: Clock, show: Callable[[datetime], str]) -> None:
        self._clock = clock
        self._show = show

    def __call__(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        time = self._show(datetime.fromtimestamp(self._clock.wall_s(), UTC))
        return {"time": time, "level": line["level"], "event": line["event"], **line}


def _timestamp(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_of_day(time: datetime) -> str:
    return f"{time:%H:%M:%SZ}"


def _heard(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """Name a library's record after who wrote it; what it says is no more than its message.

    asyncio and others add on further lines, and beside a traceback, what they held in hand.
    """
    name, words, args = line["_record"].name, line["event"], line.pop("positional_args")
    own_name = name.removeprefix("exai.")
    line["event"] = own_name if own_name != name else f"library.{name}"
    if "exc_info" not in line:
        with suppress(Exception):  # whatever its arguments are; without them it has to do
            words = words % args if args else words
        line["message"] = words.partition("\n")[0][:_LIBRARY_MESSAGE_LENGTH]
    return line


def _tamed(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """Make every value plain and harmless; leave out what is not known."""
    return {
        name: value if name == "exc_info" else _plain(value)
        for name, value in line.items()
        if value is not None
    }


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, int):
        return value
    text = str(value)
    return escaped(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…")


def _as_json(line: EventDict, **_: Any) -> str:
    return msgspec.json.encode(line).decode()


def _words(*, colors: bool) -> ConsoleRenderer:
    return ConsoleRenderer(
        pad_event_to=_EVENT_WIDTH,
        colors=colors,
        sort_keys=False,
        timestamp_key="time",
        exception_formatter=plain_traceback,
    )


def _origin_of(exc_info: ExcInfo) -> str:
    """Return an exception's frames and kind, those of what it came from first."""
    text = "\n\n".join(_origins(exc_info[1], set()))
    return escaped(text if len(text) <= _MAX_TRACEBACK else "…" + text[-_MAX_TRACEBACK:])


def _origins(exception: BaseException | None, told: set[int]) -> Iterator[str]:
    if exception is None or id(exception) in told or len(told) == _MAX_CAUSES:
        return
    told.add(id(exception))
    context = None if exception.__suppress_context__ else exception.__context__
    yield from _origins(exception.__cause__ or context, told)
    if isinstance(exception, BaseExceptionGroup):
        for each in exception.exceptions:
            yield from _origins(each, told)
    yield "".join(traceback.format_tb(exception.__traceback__, -_MAX_FRAMES)) + _kind(exception)


def _kind(exception: BaseException) -> str:
    kind = type(exception)
    name = kind.__qualname__
    if kind.__module__ != "builtins":
        name = f"{kind.__module__}.{name}"
    if isinstance(exception, OSError) and exception.errno is not None:
        name += f" {errno.errorcode.get(exception.errno, exception.errno)}"
    return name
