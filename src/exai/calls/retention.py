"""Erasing what nobody fetched in time."""

import asyncio

from exai.calls.defects import Defects
from exai.calls.ledger import Ledger

_SWEEPS_PER_TTL = 20
_LONGEST_PAUSE_S = 10.0


class Retention:
    """Sweeps the ledger often enough that a result outlives its time only slightly."""

    def __init__(self, ledger: Ledger, defects: Defects, result_ttl_s: float) -> None:
        self._ledger = ledger
        self._defects = defects
        self._pause_s = min(result_ttl_s / _SWEEPS_PER_TTL, _LONGEST_PAUSE_S)

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(self._pause_s)
            with self._defects.contained("retention"):
                await self._ledger.expire()
