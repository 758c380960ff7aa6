"""What /metrics says of a daemon, against its documents and Prometheus's own judgement."""

import asyncio
import re
import subprocess
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from exai.core.config import LimitsConfig, ProviderConfig, Secret
from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_provider import ScriptedProvider, answers
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.test_faulty_store import BrokenStore, stores_with
from tests.journeys.wire import open_wire

DOCUMENT = (Path(__file__).parents[2] / "docs/metrics.md").read_text("utf-8")
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def scrape(daemon: RunningDaemon) -> str:
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{daemon.address.http_url}metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return answer.text


def samples(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


async def test_every_metric_stands_in_the_document_and_the_other_way_round(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        text = await scrape(daemon)
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M))
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.M))
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| .*? \| (.*) \|$", DOCUMENT, re.M)
    assert {name: (kind, said) for name, kind, said in rows} == {
        name: (kind, helps[name]) for name, kind in types.items()
    }
    for found in samples(text):
        labels = {label for label, _ in found[1]}
        row = re.search(rf"^\| `{found[0]}` \| \w+ \| (.*?) \|", DOCUMENT, re.M)
        if row is not None:
            assert labels == set(re.findall(r"`(\w+)`", row[1])), found


async def test_prometheus_itself_finds_no_fault(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        async with open_wire(daemon.url, token=TOKEN) as wire:
            await wire.call("echo", arguments={"text": "x"})
            await wire.call("none")
        text = await scrape(daemon)
    judged = await asyncio.to_thread(
        subprocess.run,
        ["promtool", "check", "metrics"],
        input=text.encode(),
        capture_output=True,
        check=False,
    )
    assert (judged.returncode, judged.stdout + judged.stderr) == (0, b"")


async def test_calls_are_counted_by_how_they_ended_and_whose_work_they_were(
    tmp_path: Path,
) -> None:
    gates = Gates()

    async def read(arguments: dict[str, object], run: ToolRun) -> Completed:
        await gates({}, run)
        return Completed([text_block("read")])

    policy = SharingPolicy("principal", 60.0, idempotent=True, read_only=True)
    tools = [ScriptedTool("read", read, policy=policy)]
    async with running_daemon(daemon_config(tmp_path), tools) as daemon:
        async with open_wire(daemon.url, token=TOKEN) as wire:
            await wire.begin("read", "first")
            await gates.until_inside("g")
            await wire.begin("read", "joined")
            gates.open()
            for request_id in ("first", "joined"):
                assert (await wire.result(request_id))["ok"]
            assert (await wire.call("read", "cached"))["meta"]["cached"]
            await wire.call("none", "unknown")
            await wire.call("echo", "invalid", arguments={"text": 5})
        found = samples(await scrape(daemon))
    assert value(found, "exai_calls_total", tool="read", outcome="ok") == 3
    assert value(found, "exai_shared_calls_total", how="joined") == 1
    assert value(found, "exai_shared_calls_total", how="cached") == 1
    assert value(found, "exai_rejected_total", reason="TOOL_NOT_FOUND", scope="") == 1
    assert value(found, "exai_rejected_total", reason="VALIDATION_ERROR", scope="") == 1
    assert value(found, "exai_call_duration_seconds_count", tool="read") == 3
    assert value(found, "exai_call_duration_seconds_bucket", tool="read", le="+Inf") == 3
    assert value(found, "exai_call_duration_seconds_sum", tool="read") > 0
    assert value(found, "exai_tools") == 5


async def test_what_runs_and_what_waits_is_seen(tmp_path: Path) -> None:
    gates = Gates()
    limits = LimitsConfig(global_max_inflight=2, session_max_waiting=1)
    tool = ScriptedTool("gate", gates)
    async with (
        running_daemon(daemon_config(tmp_path, limits=limits), [tool]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        for n in range(3):
            await wire.begin("gate", f"r{n}")
        assert (await wire.call("gate", "r3"))["error"]["code"] == "OVER_CAPACITY"
        found = samples(await scrape(daemon))
        gates.open()
        for n in range(3):
            await wire.result(f"r{n}")
    assert value(found, "exai_permits_in_use", scope="global") == 2
    assert value(found, "exai_permits_limit", scope="global") == 2
    assert value(found, "exai_queue_depth", scope="") == 1
    assert value(found, "exai_rejected_total", reason="OVER_CAPACITY", scope="session") == 1
    assert value(found, "exai_sessions") == 1


async def test_outcomes_that_cannot_be_stored_are_seen(tmp_path: Path) -> None:
    stores = stores_with(BrokenStore("settle"))
    async with (
        running_daemon(daemon_config(tmp_path), stores=stores) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        before = samples(await scrape(daemon))
        await wire.call("echo", arguments={"text": "x"})
        after = samples(await scrape(daemon))
    assert value(before, "exai_ledger_unstored") == 0
    assert value(after, "exai_ledger_unstored") == value(after, "exai_ledger_records") == 1


async def test_tokens_are_counted_once_for_each_execution(tmp_path: Path) -> None:
    async with ScriptedProvider() as service:
        provider = ProviderConfig(base_url=service.base_url, api_key=Secret("k"), models=("m",))
        config = daemon_config(tmp_path, providers={"scripted": provider})
        async with running_daemon(config) as daemon:
            service.script(answers("1, ", "2."))
            async with open_wire(daemon.url, token=TOKEN) as wire:
                usage = (await wire.call("chat", arguments={"prompt": "Count."}))["meta"]["usage"]
            found = samples(await scrape(daemon))
    for direction in ("input", "output"):
        counted = value(
            found, "exai_provider_tokens_total", provider="scripted", model="m", direction=direction
        )
        assert counted == usage[f"{direction}_tokens"] > 0


@pytest.mark.parametrize("path", ["/metrics", "/metrics?token=x"])
async def test_without_a_token_no_number_is_told(tmp_path: Path, path: str) -> None:
    async with (
        running_daemon(daemon_config(tmp_path)) as daemon,
        httpx2.AsyncClient(trust_env=False, base_url=daemon.address.http_url) as client,
    ):
        assert (await client.get(path)).status_code == 401
