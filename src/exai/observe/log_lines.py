"""How one fact looks as a line: JSON for machines, words for a terminal.

Knows names, levels and plain values; knows nothing of events or of where lines go.
Foreign text is escaped and cut, so that no peer or tool can draw on a terminal or fill a disk.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec

from exai.core.foreign_text import escaped

_MAX_TEXT = 4_000
_MAX_TRACEBACK = 20_000


class LogLine(NamedTuple):
    """A fact, when it happened, and how much it matters."""

    at: float
    """Unix seconds."""
    level: int
    event: str
    fields: Mapping[str, Any]
    exception: BaseException | None = None


Render = Callable[[LogLine], bytes]


def as_json(line: LogLine) -> bytes:
    """Return one JSON object."""
    words = {
        "time": _when(line.at).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": _level(line.level),
        "event": line.event,
        **{name: _plain(value) for name, value in line.fields.items()},
    }
    if line.exception is not None:
        words["exception"] = _plain(traceback.format_exception_only(line.exception)[-1].strip())
        words["traceback"] = _traceback(line.exception)
    return msgspec.json.encode(words)


def as_words(line: LogLine) -> bytes:
    """Return one line for a person, and below it the traceback if there is one."""
    shown = " ".join(f"{name}={_shown(value)}" for name, value in line.fields.items())
    text = f"{_when(line.at):%H:%M:%SZ} {_level(line.level):<8} {line.event}  {shown}".rstrip()
    if line.exception is not None:
        text += "\n" + _traceback(line.exception)
    return text.encode()


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    text = str(value)
    cut = text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
    return escaped(cut)


def _shown(value: Any) -> str:
    plain = _plain(value)
    if isinstance(plain, float):
        return f"{plain:.6g}"
    text = str(plain)
    needs_quotes = not text or any(mark in text for mark in ' \t\n"=')
    return msgspec.json.encode(text).decode() if needs_quotes else text


def _traceback(exception: BaseException) -> str:
    text = "".join(traceback.format_exception(exception)).rstrip()
    return escaped(text if len(text) <= _MAX_TRACEBACK else "…" + text[-_MAX_TRACEBACK:])


def _when(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _level(level: int) -> str:
    return logging.getLevelName(level).lower()
