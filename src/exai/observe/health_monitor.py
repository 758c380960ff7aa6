"""Watches the daemon while it runs, in two background tasks, and watches these.

One writes the health file; the other measures how late the loop is and audits the permits.
A task that ends before its time is reported and started again.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress

from exai.core.clock import Clock
from exai.core.events import EventSink, MonitorFailed
from exai.observe.health_file import HealthFile
from exai.observe.loop_lag import LoopLag
from exai.observe.permit_audit import PermitAudit

_LAG_TICK_S = 0.1
_AUDIT_EVERY_TICKS = 10
_RESTART_AFTER_S = 1.0


class HealthMonitor:
    """The two tasks. `loop_lag` and `permit_audit` have what they found."""

    def __init__(
        self,
        health_file: HealthFile,
        file_interval_s: float,
        permit_audit: PermitAudit,
        clock: Clock,
        events: EventSink,
    ) -> None:
        self.loop_lag = LoopLag()
        self.permit_audit = permit_audit
        self._file = health_file
        self._file_interval_s = file_interval_s
        self._clock = clock
        self._events = events

    def start_monitoring_tasks(self, stop_event: asyncio.Event, tasks: asyncio.TaskGroup) -> None:
        """Start both in `tasks`; they end when `stop_event` is set."""
        for name, work in (("health file", self._write_files), ("permit audit", self._audit)):
            tasks.create_task(self._keep_running(name, work, stop_event))

    async def _keep_running(
        self,
        name: str,
        work: Callable[[asyncio.Event], Coroutine[None, None, None]],
        stop_event: asyncio.Event,
    ) -> None:
        while not stop_event.is_set():
            reason = "it was cancelled"
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(work(stop_event), name=name)
            except* Exception as failed:  # noqa: BLE001 - told, and begun anew
                reason = repr(failed.exceptions[0])
            if not stop_event.is_set():
                self._events.emit(MonitorFailed(name, reason, _RESTART_AFTER_S))
                await _sleep(_RESTART_AFTER_S, stop_event)

    async def _write_files(self, stop_event: asyncio.Event) -> None:
        try:
            while not stop_event.is_set():
                await self._file.write()
                await _sleep(self._file_interval_s, stop_event)
        finally:
            if stop_event.is_set():
                self._file.remove()

    async def _audit(self, stop_event: asyncio.Event) -> None:
        ticks = 0
        while not stop_event.is_set():
            due_at = self._clock.monotonic_s() + _LAG_TICK_S
            await _sleep(_LAG_TICK_S, stop_event)
            now = self._clock.monotonic_s()
            self.loop_lag.add(now, max(0.0, now - due_at))
            ticks += 1
            if ticks % _AUDIT_EVERY_TICKS == 0:
                self.permit_audit.run()


async def _sleep(duration_s: float, stop_event: asyncio.Event) -> None:
    """Wait for a while, or until it is time to stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(duration_s):
            await stop_event.wait()
