"""The HTTP port of a whole daemon."""

import asyncio
import sys
from pathlib import Path

import httpx2
import msgspec
import pytest

from exai.core.config import AuthConfig, LimitsConfig, ServerConfig, UpstreamConfig
from exai.core.events import AccessOpened
from exai.testing.running_daemon import (
    TOKEN,
    RecordedEvents,
    RunningDaemon,
    daemon_config,
    running_daemon,
)
from exai.testing.scripted_tool import Gates, ScriptedTool
from exai.ws_server import build_daemon
from tests.journeys.wire import open_wire

MUTE = UpstreamConfig(command=sys.executable, args=("-c", "import sys; sys.stdin.read()"))


async def get(daemon: RunningDaemon, path: str, token: str | None = None) -> httpx2.Response:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    async with httpx2.AsyncClient(base_url=daemon.address.http_url, trust_env=False) as client:
        return await client.get(path, headers=headers)


async def test_a_daemon_is_ready_once_its_servers_had_their_first_start(tmp_path: Path) -> None:
    dead = UpstreamConfig(command=sys.executable, args=("-c", "raise SystemExit(3)"))
    config = daemon_config(tmp_path, upstreams={"dead": dead})
    async with running_daemon(config) as daemon, asyncio.timeout(20):
        while (answer := await get(daemon, "/readyz")).status_code != 200:
            blocked_by = answer.json()["blocked_by"]
            assert blocked_by["daemon"] == "starting"
            assert blocked_by.get("upstream:dead", "starting") == "starting"
        assert answer.json() == {"status": "ok", "blocked_by": {}}
        (server,) = (await get(daemon, "/health", TOKEN)).json()["upstreams"]
        assert server["state"] != "ready"
        assert "exited with status 3" in server["last_end"]


async def test_a_silent_server_delays_readiness_only_so_long_and_work_not_at_all(
    tmp_path: Path,
) -> None:
    server = ServerConfig(ready_wait_s=0.5)
    config = daemon_config(tmp_path, server=server, upstreams={"mute": MUTE})
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN) as wire:
        assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
        waits = (await get(daemon, "/readyz")).json()
        assert waits["blocked_by"] == {"daemon": "starting", "upstream:mute": "starting"}
        async with asyncio.timeout(20):
            while (await get(daemon, "/readyz")).status_code != 200:
                pass


async def test_health_is_told_whole_only_to_those_with_a_token(tmp_path: Path) -> None:
    async with (
        running_daemon(daemon_config(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        assert (await get(daemon, "/health")).json() == {"status": "ok"}
        over_http = (await get(daemon, "/health", TOKEN)).json()
        over_wire = (await wire.ask("health", "health_res"))["health"]
    assert over_http.keys() == over_wire.keys()
    assert {
        "status", "t", "pid", "host", "port", "started_at", "uptime_human", "sessions",
        "global_capacity", "global_inflight", "tool_count",
    } <= over_http.keys()  # fmt: skip
    assert f":{over_http['port']}/" in daemon.url
    assert over_http["sessions"] == 1


async def test_health_names_limits_providers_and_open_access(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, auth=AuthConfig(mode="none"), principals={})
    async with running_daemon(config) as daemon, open_wire(daemon.url):
        health = (await get(daemon, "/health")).json()
        (warned,) = daemon.events.of(AccessOpened)
    assert health["warnings"] == [warned.warning]
    assert (health["connections"], health["max_connections"]) == (1, 1000)
    assert health["limits"]["session_max_inflight"] == 8
    assert f":{health['http_port']}/" in daemon.address.http_url
    providers = {provider["provider"]: provider for provider in health["providers"]}
    assert [name for name, one in providers.items() if one["is_local"]] == ["local"]
    assert not any(one["is_configured"] for one in providers.values())
    assert "KIMI_API_KEY" in providers["kimi"]["missing"]


async def test_a_daemon_that_takes_one_connection_still_tells_how_it_fares(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, server=ServerConfig(max_connections=1))
    async with running_daemon(config) as daemon, open_wire(daemon.url, token=TOKEN):
        assert (await get(daemon, "/health", TOKEN)).json()["connections"] == 1


async def test_load_is_not_ill_health(tmp_path: Path) -> None:
    gates = Gates()
    config = daemon_config(tmp_path, limits=LimitsConfig(global_max_inflight=1))
    async with (
        running_daemon(config, [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        for n in range(65):
            await wire.say("call_tool", name="gate", request_id=f"r{n}")
        await gates.until_inside("g")
        for path in ("/livez", "/readyz", "/health"):
            assert (await get(daemon, path)).status_code == 200
        gates.open()
        assert all([(await wire.result(f"r{n}"))["ok"] for n in range(65)])


async def test_a_draining_daemon_is_alive_and_not_ready(tmp_path: Path) -> None:
    gates = Gates()
    async with (
        running_daemon(daemon_config(tmp_path), [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await wire.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        daemon.stop.set()
        await wire.hear_op("going_away")
        assert (await get(daemon, "/livez")).status_code == 200
        answer = await get(daemon, "/readyz")
        assert answer.status_code == 503
        assert answer.json()["blocked_by"] == {"daemon": "draining"}
        gates.open()
        assert (await wire.result())["ok"]


@pytest.mark.parametrize("taken", ["port", "http_port"])
async def test_a_port_in_use_is_told_and_nothing_is_left_open(tmp_path: Path, taken: str) -> None:
    async with running_daemon(daemon_config(tmp_path / "one")) as daemon:
        used = daemon.url if taken == "port" else daemon.address.http_url
        config = daemon_config(tmp_path / "other")
        port = {taken: int(used.rsplit(":", 1)[1].strip("/"))}
        config = msgspec.structs.replace(
            config, server=msgspec.structs.replace(config.server, **port)
        )
        second = build_daemon(config, environment={}, events=RecordedEvents())
        with pytest.raises(OSError, match="in use"):
            await second.run(asyncio.Event(), print)
