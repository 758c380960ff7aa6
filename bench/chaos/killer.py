"""Has the daemon and its MCP servers die when it hurts most, and brings the daemon back."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Sequence

from bench.chaos.daemon_process import DaemonProcess
from bench.chaos.journal import Journal
from bench.chaos.plan import DeathPlan, Moment
from bench.chaos.record import Death

_MOMENT_WITHIN_S = 1.0
_LOOKS_EVERY_S = 0.001
_LOOKS_FOR: dict[Moment, bytes] = {"begun": b"begun ", "completed": b"completed "}


class Killer:
    """Carries out what is planned; `deaths` are what it has done."""

    def __init__(self, plan: Sequence[DeathPlan], daemon: DaemonProcess, journal: Journal) -> None:
        self._plan = plan
        self._daemon = daemon
        self._journal = journal
        self.deaths: list[Death] = []

    async def run(self) -> None:
        """Kill what is to be killed, one after the other. Raises where a daemon does not start."""
        for death in self._plan:
            await self._journal.wait_sent(death.after_calls)
            await self._wait_for(death.moment)
            await asyncio.sleep(death.delay_s)
            if death.target == "daemon":
                await self._kill_daemon(death)
            elif self._daemon.kill_upstream(death.target):
                self._note(death, time.time())

    async def _kill_daemon(self, death: DeathPlan) -> None:
        at = time.time()
        await self._daemon.die(death.way)
        if death.way != "hup":
            await asyncio.sleep(death.down_s)
            await self._daemon.start()
        if death.again_after_s is not None:
            await asyncio.sleep(death.again_after_s)
            again_at = time.time()
            await self._daemon.die(death.way)
            self.deaths.append(Death("daemon", death.way, again_at, again_at, in_start=True))
            await self._daemon.start()
        await self._daemon.wait_ready()
        self._note(death, at)

    async def _wait_for(self, moment: Moment) -> None:
        if moment in _LOOKS_FOR:
            await self._wait_written(_LOOKS_FOR[moment])
        elif moment != "any":
            await self._journal.wait_for(moment, _MOMENT_WITHIN_S)

    async def _wait_written(self, what: bytes) -> None:
        """Wait until an MCP server writes such a line."""
        with self._daemon.executions.open("rb") as log:
            log.seek(0, os.SEEK_END)
            for _ in range(round(_MOMENT_WITHIN_S / _LOOKS_EVERY_S)):
                if what in log.read():
                    return
                await asyncio.sleep(_LOOKS_EVERY_S)

    def _note(self, death: DeathPlan, at: float) -> None:
        self.deaths.append(Death(death.target, death.way, at, time.time()))


def can_be_replaced() -> bool:
    """Tell whether this daemon knows how to be replaced in place."""
    asked = subprocess.run(
        [sys.executable, "-m", "exai", "reload", "--help"], capture_output=True, check=False
    )
    return asked.returncode == 0
