"""The whole picture in one object: what `/health` and the op `health` say.

Asks every part for its `statistics()`; decides nothing and changes nothing.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec

from exai.core.clock import Clock

HealthPart = Callable[[], Any]
"""Returns something that msgspec can turn into plain JSON values."""


class HealthReport:
    """Collects the parts' numbers. `status` is `ok`, `starting` or `draining`."""

    def __init__(
        self,
        clock: Clock,
        facts: dict[str, Any],
        status: Callable[[], str],
        counts: dict[str, Callable[[], int]],
        parts: dict[str, HealthPart],
    ) -> None:
        self._clock = clock
        self._facts = facts
        self._status = status
        self._counts = counts
        self._parts = parts
        self._started_at = clock.wall_s()

    def report(self) -> dict[str, Any]:
        """Return the picture now, as plain JSON values."""
        now = self._clock.wall_s()
        uptime_s = now - self._started_at
        return {
            "status": self._status(),
            "t": now,
            "pid": os.getpid(),
            **self._facts,
            "started_at": self._started_at,
            "uptime_human": str(timedelta(seconds=int(uptime_s))),
            **{name: count() for name, count in self._counts.items()},
            **{name: msgspec.to_builtins(part()) for name, part in self._parts.items()},
        }
