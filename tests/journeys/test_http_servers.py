"""MCP servers behind HTTP, behind a whole daemon."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from exai.testing.running_daemon import TOKEN, daemon_config, running_daemon
from tests.journeys.wire import open_wire
from tests.upstream.http_servers import serving

SECRET = "a-secret-of-mine"


@pytest.mark.slow
async def test_a_server_behind_http_is_called_shown_and_found_again(tmp_path: Path) -> None:
    async with serving("--token", SECRET) as served:
        headers = {"Authorization": f"Bearer {SECRET}"}
        upstreams = {"far": served.config(headers=headers), "off": served.config()}
        config = daemon_config(tmp_path, upstreams=upstreams)
        async with running_daemon(config) as daemon, asyncio.timeout(50):
            async with open_wire(daemon.url, token=TOKEN) as wire:
                await wire.hear_op("tools_changed")
                assert (await wire.call("far__echo", arguments={"text": "x"}))["text"] == "x"
                await served.stop()
                await wire.begin("far__echo", "r2", arguments={"text": "y"})
                await served.start()
                assert (await wire.result("r2"))["text"] == "y"
            async with httpx2.AsyncClient(
                base_url=daemon.address.http_url,
                trust_env=False,
                headers={"authorization": f"Bearer {TOKEN}"},
            ) as client:
                shown = await shown_servers(client)
                while "credentials" not in shown["off"]["last_end"]:  # not tried again yet
                    await asyncio.sleep(0.05)
                    shown = await shown_servers(client)
                metrics = await client.get("/metrics")
            assert (shown["far"]["state"], shown["far"]["url"]) == ("ready", served.url)
            assert shown["far"]["protocol_version"] == "2026-07-28"
            assert "does not accept our credentials" in shown["off"]["last_end"]
            assert SECRET not in str(shown) + metrics.text


async def shown_servers(client: httpx2.AsyncClient) -> dict[str, Any]:
    """Return what the daemon's health says of each server."""
    health = await client.get("/health")
    return {one["upstream"]: one for one in health.json()["upstreams"]}
