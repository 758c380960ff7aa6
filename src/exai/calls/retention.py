"""Erasing what nobody fetched, or went on with, in time."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from exai.calls.defects import Defects

_SWEEPS_PER_TTL = 20
_LONGEST_PAUSE_S = 10.0


class Retention:
    """Sweeps the stores often enough that a result outlives its time only slightly."""

    def __init__(
        self,
        sweeps: Sequence[Callable[[], Awaitable[object]]],
        defects: Defects,
        result_ttl_s: float,
    ) -> None:
        self._sweeps = sweeps
        self._defects = defects
        self._pause_s = min(result_ttl_s / _SWEEPS_PER_TTL, _LONGEST_PAUSE_S)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            for sweep in self._sweeps:
                with self._defects.contained("retention"):
                    await sweep()
