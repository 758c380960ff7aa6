"""A disk that is full refuses new calls; what was accepted before is answered, and kept later."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from exai.core.call_store import CallStore
from exai.core.config import LimitsConfig
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Wire, open_wire

DISK_BYTES = 1_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system so small that it is soon full."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    subprocess.run(["mount", *options], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@asynccontextmanager
async def living(disk: Path, gates: Gates) -> AsyncIterator[RunningDaemon]:
    config = daemon_config(disk, limits=LimitsConfig(session_max_inflight=4))
    async with running_daemon(config, [ScriptedTool("gate", gates)]) as daemon:
        yield daemon


def fill(disk: Path) -> Path:
    """Leave no room for one more byte."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size_bytes in (65_536, 4096, 1):
            while True:
                try:
                    file.write(b"x" * size_bytes)
                except OSError:
                    break
    return ballast


async def test_a_full_disk_refuses_what_is_new_and_answers_what_ran(disk: Path) -> None:
    gates = Gates()
    async with living(disk, gates) as daemon:
        async with open_wire(daemon.url, token=TOKEN, says_bye=False) as wire:
            assert (await wire.call("echo", "before", arguments={"text": "x"}))["ok"]
            await wire.begin("gate", "runs")
            await gates.until_inside("g")
            ballast = fill(disk)
            await until_refused(wire)
            gates.open()
            answer = await wire.result("runs")
            assert (answer["ok"], answer["text"]) == (True, "through g")
            assert answer["meta"]["durable"] is False
            again = await wire.ask("get_result", "call_tool_res", request_id="runs")
            assert (again["text"], again["meta"]["replayed"]) == ("through g", True)
            assert again["meta"]["durable"] is False
            async with open_wire(daemon.url, token=TOKEN) as late:
                refused = await late.call("echo", arguments={"text": "x"})
                assert refused["error"]["code"] == "SERVICE_UNAVAILABLE"
                ballast.unlink()
                accepted = await late.call("echo", arguments={"text": "x"})
                assert (accepted["ok"], "durable" in accepted["meta"]) == (True, False)
        store: CallStore = daemon.daemon.stores.calls
        (stored,) = (await store.find_all("default", "runs", 1)).records
        assert stored.summary is not None
        assert stored.summary.succeeded


async def until_refused(wire: Wire) -> None:
    """Call until the last room in what the database has is used up."""
    async with asyncio.timeout(20):
        for n in range(10_000):
            answer = await wire.call("echo", f"n{n}", arguments={"text": "y" * 2000})
            if not answer["ok"]:
                assert answer["error"]["code"] == "SERVICE_UNAVAILABLE"
                assert answer["error"]["retryable"] is True
                return
    raise AssertionError("the disk takes anything")
