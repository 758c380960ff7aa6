"""One run: a daemon, its clients, its killer; and the record of what they saw."""

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

from bench.chaos.daemon_process import DaemonFailed, DaemonProcess
from bench.chaos.executions import executions_in
from bench.chaos.journal import Journal
from bench.chaos.killer import Killer
from bench.chaos.ledger_file import look_into
from bench.chaos.mean_client import MeanClient
from bench.chaos.plan import plan_clients, plan_deaths
from bench.chaos.profile import Profile
from bench.chaos.record import Record
from bench.chaos.steady_client import SteadyClient

_DEFECTS = (
    "failed_inside",
    "daemon.failed",
    "cut_short",
    "permit_leaked",
    "Traceback",
    "[critical",
)


class Run:
    """What runs once. `home` has the daemon's files, and its log."""

    def __init__(self, profile: Profile, seed: int, synchronous: str, patience_s: float) -> None:
        self.home = Path(mkdtemp(prefix="exai-chaos-"))
        self._profile = profile
        self._seed = seed
        self._patience_s = patience_s
        self._daemon = DaemonProcess(self.home, synchronous)
        self._journal = Journal()
        self._killer = Killer(plan_deaths(profile, seed), self._daemon, self._journal)
        self._trouble: list[str] = []

    async def run(self) -> Record:
        """Do it, and return what was seen."""
        begun_at = time.monotonic()
        try:
            await self._daemon.start()
            await self._daemon.wait_ready()
            async with asyncio.TaskGroup() as staying:
                steady = self._steady_clients()
                present = [staying.create_task(client.run()) for client in steady]
                for client in steady:  # which only the first time must find a daemon
                    await client.is_open.wait()
                await self._bring_load(steady)
                # Their `bye` would have the daemon forget their calls.
                await self._daemon.stop()
                for task in present:
                    task.cancel()
        finally:
            await self._daemon.stop()
        return self._record(time.monotonic() - begun_at)

    def clear(self) -> None:
        """Remove the daemon's files."""
        shutil.rmtree(self.home)

    async def _bring_load(self, others: list[SteadyClient]) -> None:
        """See all clients through, the daemon ended; take note of what keeps them from that."""
        try:
            async with asyncio.timeout(self._patience_s), asyncio.TaskGroup() as tasks:
                tasks.create_task(self._killer.run())
                for plan in plan_clients(self._profile, self._seed, mean=True):
                    tasks.create_task(MeanClient(plan, self._journal, self._daemon).run())
                for steady in others:
                    steady.begin.set()
                    tasks.create_task(steady.is_done.wait())
            await self._daemon.die("term")
        except* TimeoutError:
            self._trouble.append(f"not all was answered within {self._patience_s:g} s")
        except* DaemonFailed as failed:
            self._trouble += [str(each) for each in failed.exceptions]

    def _steady_clients(self) -> list[SteadyClient]:
        plans = plan_clients(self._profile, self._seed, mean=False)
        return [SteadyClient(plan, self._journal, self._daemon) for plan in plans]

    def _record(self, duration_s: float) -> Record:
        return Record(
            profile=self._profile.name,
            seed=self._seed,
            duration_s=duration_s,
            calls=self._journal.histories,
            executions=executions_in(self._daemon.executions),
            deaths=self._killer.deaths,
            waits=self._journal.waits,
            lost_sessions=self._journal.lost_sessions,
            orphans=self._daemon.orphans(),
            defects=self._trouble + list(self._defects()),
            database=look_into(self._daemon.state_dir),
        )

    def _defects(self) -> Iterator[str]:
        for line in self._daemon.log.read_text(errors="replace").splitlines():
            if any(word in line for word in _DEFECTS):
                yield line[:300]


@contextmanager
def contention(process_count: int) -> Iterator[None]:
    """Keep the machine's cores busy while the context is open."""
    busy = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(busy) for _ in range(process_count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            with suppress(ProcessLookupError):
                process.wait()
