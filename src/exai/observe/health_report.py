"""The whole picture in one object: what `/health` and the op `health` say.

Asks every part for its `statistics()`; decides nothing and changes nothing.
"""

import os
import resource
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from exai.core.clock import Clock
from exai.core.config import OPEN_ACCESS, Config
from exai.core.identity import Principal

HealthPart = Callable[[Principal], Any]
"""Returns what a principal may see of a part, as something that msgspec can turn into JSON."""


class HealthReport:
    """Collects the parts' numbers. `status` is `ok`, `starting` or `draining`."""

    def __init__(
        self,
        clock: Clock,
        facts: dict[str, Any],
        status: Callable[[], str],
        parts: dict[str, HealthPart],
    ) -> None:
        self._clock = clock
        self._facts = facts
        self._status = status
        self._parts = parts
        self._started_at = clock.wall_s()

    def report(self, principal: Principal) -> dict[str, Any]:
        """Return the picture now, as plain JSON values, without what is others' own."""
        now = self._clock.wall_s()
        uptime_s = now - self._started_at
        return {
            "status": self._status(),
            "t": now,
            "pid": os.getpid(),
            **self._facts,
            "started_at": self._started_at,
            "uptime_human": str(timedelta(seconds=int(uptime_s))),
            "resident_bytes": _resident_bytes(),
            **{name: msgspec.to_builtins(part(principal)) for name, part in self._parts.items()},
        }


def facts_of(config: Config, version: str) -> dict[str, Any]:
    """Return what does not change while the daemon lives: how it was set up, and its limits."""
    is_open = config.auth.mode == "none"
    return {
        "version": version,
        "host": config.server.host,
        "auth": config.auth.mode,
        "warnings": [OPEN_ACCESS] if is_open else [],
        "global_capacity": config.limits.global_max_inflight,
        "max_connections": config.server.max_connections,
        "limits": msgspec.to_builtins(config.limits),
    }


def _resident_bytes() -> int:
    """Return the memory of this process; where the system does not say, its peak so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * resource.getpagesize()


def for_those_who_see_everything(statistics: Callable[[], Any]) -> HealthPart:
    """Return a part that shows nothing to a principal from whom some tools are hidden."""
    return lambda principal: statistics() if principal.sees_everything else None
