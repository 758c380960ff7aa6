"""Sizes, durations and moments in words for people."""

from datetime import UTC, datetime

_KIB, _MIB = 1024, 1024 * 1024
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86_400


def size_in_words(size_bytes: float) -> str:
    """Return a size in the unit that fits it."""
    if size_bytes < _KIB:
        return f"{size_bytes:.0f} bytes"
    if size_bytes < _MIB:
        return f"{size_bytes / _KIB:.0f} KiB"
    return f"{size_bytes / _MIB:,.0f} MiB"


def duration_in_words(duration_s: float) -> str:
    """Return a duration in the unit that fits it."""
    if duration_s < 1:
        return f"{duration_s * 1000:.0f} ms"
    if duration_s < 2 * _MINUTE_S:
        return f"{duration_s:.1f} s"
    if duration_s < 2 * _HOUR_S:
        return f"{duration_s / _MINUTE_S:.0f} min"
    if duration_s < 2 * _DAY_S:
        return f"{duration_s / _HOUR_S:.0f} h"
    return f"{duration_s / _DAY_S:.0f} days"


def moment_in_words(at: float, now: float) -> str:
    """Return when something happened, in local time, and how long ago; both in unix seconds."""
    local = datetime.fromtimestamp(at, UTC).astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}, {duration_in_words(max(0.0, now - at))} ago"
