"""Whose a line is that a server writes to its client's log.

Knows the calls that run on one instance; knows nothing of levels but their names, and nothing
of who filters by them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from exai.core.clock import Clock
from exai.core.tool import LOG_LEVELS, ToolRun
from exai.upstream.allowance import Allowance

_MAX_ENTRY_BYTES = 65_536

_encode = msgspec.json.Encoder().encode


class ServerLog:
    """Hands lines to the calls that run on an instance, at most so many in a while.

    No line says which call it is about. So it belongs to all that run, if all are of one
    principal. Where calls of two principals run on a shared server, a line belongs to nobody
    and goes to nobody: it may hold what the other must not see.
    """

    def __init__(self, clock: Clock) -> None:
        self._allowance = Allowance(clock)
        self._runs: dict[ToolRun, None] = {}

    @contextmanager
    def heard_by(self, run: ToolRun) -> Iterator[None]:
        """Let a run hear the log while the context is open."""
        self._runs[run] = None
        try:
            yield
        finally:
            del self._runs[run]

    def take(self, entry: dict[str, Any]) -> None:
        """Tell whoever a line belongs to, or count it as left out."""
        if entry.get("level") not in LOG_LEVELS or "data" not in entry:
            return
        if len({run.principal.name for run in self._runs}) != 1 or not self._allowance.take():
            return
        if len(_encode(entry)) > _MAX_ENTRY_BYTES:
            self._allowance.leave_out(1)
            return
        if left_out := self._allowance.take_left_out():
            self._tell({"level": "warning", "data": f"[{left_out:,} lines were left out]"})
        self._tell(entry)

    def _tell(self, entry: dict[str, Any]) -> None:
        for run in list(self._runs):
            run.log(entry)
