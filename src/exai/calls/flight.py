"""One execution, as its tool sees it, and those who wait for it.

What the tool reports goes to every caller, in order.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any

from exai.calls.call import Call
from exai.core.clock import Clock
from exai.core.tool import LogLevel, ToolRun


class Flight(ToolRun):
    """A running tool and its callers."""

    def __init__(self, call: Call, clock: Clock) -> None:
        self.call_id = call.call_id
        self.principal = call.peer.principal
        self.deadline = call.deadline
        self.traceparent = call.request.traceparent
        self.callers = [call]
        self._clock = clock
        self._attempt = 1
        self._offset = 0

    def report(
        self,
        message: str | None = None,
        *,
        progress: float | None = None,
        total: float | None = None,
        level: LogLevel | None = None,
    ) -> None:
        """Tell every caller how far the work is."""
        self._tell(message=message, progress=progress, total=total, level=level)

    def stream(self, delta: str) -> None:
        """Tell every caller the next piece of the text."""
        if delta:
            self._tell(delta=delta, offset=self._offset, attempt=self._attempt)
            self._offset += len(delta)

    def begin_attempt(self) -> None:
        """Count offsets from 0 again, under the next attempt's number."""
        self._attempt += 1
        self._offset = 0

    def _tell(self, **said: Any) -> None:
        for call in self.callers:
            if call.outcome is None:
                call.tell_progress(self._clock, **said)

    def permit(self, scope: str) -> AbstractAsyncContextManager[None]:
        """Hold a permit of `scope`."""
        raise NotImplementedError
