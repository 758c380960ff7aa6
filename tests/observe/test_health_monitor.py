"""The health file, and who watches the watchers: through a daemon that runs."""

import asyncio
import json
import os
import time
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import RatesConfig, ServerConfig
from exai.core.events import MonitorFailed, PermitLeaked
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import open_wire
from tests.processes.process_tree import until

INTERVAL_S = 0.05
PLANNED = {
    "t", "pid", "host", "port", "started_at", "uptime_human", "sessions", "global_capacity",
    "global_inflight", "tool_count",
}  # fmt: skip


def config_of(state_dir: Path) -> Any:
    return daemon_config(
        state_dir,
        server=ServerConfig(health_file_interval_s=INTERVAL_S),
        rates=RatesConfig(principal_per_s=0),
    )


def file_of(state_dir: Path) -> Path:
    return state_dir / "ws_daemon.health.json"


async def next_report(state_dir: Path, after: float = 0.0) -> dict[str, Any]:
    """Wait for a report that is younger than `after`, and return it."""
    async with asyncio.timeout(10):
        while True:
            if file_of(state_dir).exists():
                report: dict[str, Any] = json.loads(file_of(state_dir).read_bytes())
                if report["t"] > after:
                    return report
            await asyncio.sleep(INTERVAL_S / 5)


def tasks_named(name: str) -> list[asyncio.Task[Any]]:
    return [task for task in asyncio.all_tasks() if task.get_name() == name]


async def test_the_file_is_whole_and_new_while_the_daemon_lives_and_then_gone(
    tmp_path: Path,
) -> None:
    async with running_daemon(config_of(tmp_path)) as daemon:
        first = await next_report(tmp_path)
        assert first.keys() >= PLANNED
        assert file_of(tmp_path).stat().st_mode & 0o777 == 0o600
        async with open_wire(daemon.url, token=TOKEN) as wire:
            for _ in range(3):
                report = await next_report(tmp_path, after=first["t"])
                first = report
            assert report["sessions"] == 1
            assert report["port"] == int(daemon.url.rstrip("/").rpartition(":")[2])
            health = (await wire.ask("health", "health_res"))["health"]
            assert health.keys() == report.keys()
    assert not file_of(tmp_path).exists()
    assert not any("ws_daemon" in name for name in os.listdir(tmp_path))


async def test_under_load_the_file_is_never_older_than_two_intervals(tmp_path: Path) -> None:
    async with running_daemon(config_of(tmp_path)) as daemon:
        await next_report(tmp_path)
        oldest_s = 0.0

        async def load(worker: int) -> None:
            async with open_wire(daemon.url, token=TOKEN) as wire:
                for n in range(150):
                    await wire.call("echo", f"{worker}-{n}", arguments={"text": f"{worker}{n}"})

        async def look() -> None:
            nonlocal oldest_s
            while True:
                report = json.loads(file_of(tmp_path).read_bytes())
                oldest_s = max(oldest_s, time.time() - report["t"])
                await asyncio.sleep(0.01)

        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(look())
            async with asyncio.TaskGroup() as callers:
                for worker in range(8):
                    callers.create_task(load(worker))
            looking.cancel()
        assert oldest_s < 2 * INTERVAL_S + 0.5


@pytest.mark.parametrize("name", ["health file", "permit audit"])
async def test_a_monitoring_task_that_is_killed_is_reported_and_begins_anew(
    tmp_path: Path, name: str
) -> None:
    async with running_daemon(config_of(tmp_path)) as daemon:
        await next_report(tmp_path)
        [killed] = tasks_named(name)
        killed.cancel()
        failed = await daemon.events.first_of(MonitorFailed)
        assert (failed.task, failed.reason) == (name, "it was cancelled")
        await until(lambda: any(task is not killed for task in tasks_named(name)))
        await next_report(tmp_path, after=time.time())


async def test_a_file_that_cannot_be_written_is_reported_and_tried_again(tmp_path: Path) -> None:
    async with running_daemon(config_of(tmp_path)) as daemon:
        await next_report(tmp_path)
        file_of(tmp_path).unlink()
        file_of(tmp_path).mkdir()
        failed = await daemon.events.first_of(MonitorFailed)
        assert "IsADirectoryError" in failed.reason
        file_of(tmp_path).rmdir()
        await next_report(tmp_path)


async def leaked(daemon: RunningDaemon) -> list[dict[str, str]]:
    async with open_wire(daemon.url, token=TOKEN) as wire:
        health = (await wire.ask("health", "health_res"))["health"]
    found: list[dict[str, str]] = health["leaked_permits"]
    return found


async def test_a_permit_whose_owner_has_ended_is_reported_with_it_and_left_where_it_is(
    tmp_path: Path,
) -> None:
    kept: list[AbstractAsyncContextManager[None]] = []

    async def leak(arguments: dict[str, Any], run: ToolRun) -> Completed:
        permit = run.permit("provider:kimi")
        kept.append(permit)
        await permit.__aenter__()  # and never lets go
        return Completed([text_block(run.call_id)])

    async with running_daemon(config_of(tmp_path), [ScriptedTool("leak", leak)]) as daemon:
        async with open_wire(daemon.url, token=TOKEN) as wire:
            call_id = (await wire.call("leak"))["text"]
        event = await daemon.events.first_of(PermitLeaked)
        assert event.scope == "provider:kimi"
        assert event.owner.startswith(call_id)
        assert await leaked(daemon) == [{"scope": "provider:kimi", "owner": event.owner}]
        async with open_wire(daemon.url, token=TOKEN) as wire:
            health = (await wire.ask("health", "health_res"))["health"]
        [pool] = [pool for pool in health["pools"] if pool["scope"] == "provider:kimi"]
        assert pool["in_use"] == 1
        await kept[0].__aexit__(None, None, None)
        async with asyncio.timeout(10):
            while await leaked(daemon):
                pass
        assert len(daemon.events.of(PermitLeaked)) == 1


async def test_what_runs_and_what_unwinds_is_no_leak(tmp_path: Path) -> None:
    gates = Gates()

    async def stubborn(arguments: dict[str, Any], run: ToolRun) -> Completed:
        try:
            return await gates(arguments, run)
        except asyncio.CancelledError:
            await asyncio.sleep(2.5)  # longer than two audits take
            raise

    async with running_daemon(config_of(tmp_path), [ScriptedTool("stubborn", stubborn)]) as daemon:
        async with open_wire(daemon.url, token=TOKEN) as wire:
            await wire.begin("stubborn", "r1")
            await gates.until_inside("g")
            await wire.say("cancel_tool", request_id="r1")
            assert (await wire.result("r1"))["error"]["code"] == "CANCELLED"
            async with asyncio.timeout(10):
                while (await wire.ask("health", "health_res"))["health"]["global_inflight"]:
                    pass
        assert daemon.events.of(PermitLeaked) == []
