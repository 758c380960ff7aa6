"""One ticker for the whole daemon: no caller goes unheard for longer than the interval."""

import asyncio

from exai.calls.in_flight import InFlight
from exai.calls.single_flight import SingleFlight
from exai.core.clock import Clock

_TICKS_PER_INTERVAL = 4


class Heartbeat:
    """Tells callers that wait or run in silence that their call is alive."""

    def __init__(
        self,
        in_flight: InFlight,
        sharing: SingleFlight,
        clock: Clock,
        progress_interval_s: float,
    ) -> None:
        self._in_flight = in_flight
        self._sharing = sharing
        self._clock = clock
        self._tick_s = progress_interval_s / _TICKS_PER_INTERVAL
        self._silence_s = progress_interval_s - self._tick_s

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            await asyncio.sleep(self._tick_s)
            self._beat(self._clock.monotonic_s())

    def _beat(self, now: float) -> None:
        for call in self._in_flight:
            if call.is_accepted and now - call.last_told_at >= self._silence_s:
                call.tell_progress(self._clock, message=self._sharing.place_in_line(call))
