"""An MCP client that comes while the daemon still begins with its MCP servers."""

import asyncio
import signal
from pathlib import Path
from types import ModuleType

import httpx2
import pytest

from exai.cli.exit_codes import ExitCode
from exai.core.events import DaemonStopped
from exai.core.slow_imports import import_in_thread
from exai.testing.running_daemon import daemon_config, running_daemon
from tests.cli.exai_process import PATIENCE_S
from tests.journeys.daemon_process import TOKEN, is_ready, name_server, serving, shell_in
from tests.journeys.mcp_by_hand import INITIALIZE, http_client
from tests.journeys.test_mcp_websocket import peer

HEADERS = {
    "Accept": "application/json, text/event-stream",
    "Authorization": f"Bearer {TOKEN}",
}


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.2, 0.4])
async def test_the_first_client_and_the_first_server_do_not_meet(
    tmp_path: Path, delay_s: float
) -> None:
    """Both need the SDK, and have it imported: two threads that did so at once broke it."""
    shell = shell_in(tmp_path)
    name_server(shell)
    async with serving(shell) as daemon, asyncio.timeout(PATIENCE_S):
        await asyncio.sleep(delay_s)
        async with httpx2.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
            url = daemon.http_url + "mcp"
            answer = await http.post(url, json=INITIALIZE, headers=HEADERS)
        assert answer.status_code == 200, answer.text
        while True:
            if await is_ready(daemon):
                break
            await asyncio.sleep(0.05)
        daemon.process.send_signal(signal.SIGTERM)
        end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert not [line for line in lines if line["level"] == "error"]


@pytest.mark.slow
async def test_who_has_sent_half_a_request_is_owed_nothing(tmp_path: Path) -> None:
    async with serving(shell_in(tmp_path)) as daemon, asyncio.timeout(PATIENCE_S):
        at = httpx2.URL(daemon.http_url)
        _, writer = await asyncio.open_connection(at.host, at.port)
        lines = [f"{name}: {value}" for name, value in HEADERS.items()]
        head = ["POST /mcp HTTP/1.1", f"Host: {at.host}", *lines, "Content-Length: 5000", "", ""]
        writer.write("\r\n".join(head).encode() + b"{")
        await writer.drain()
        await asyncio.sleep(0.5)  # until the daemon waits for the rest
        begun_at = asyncio.get_running_loop().time()
        daemon.process.send_signal(signal.SIGTERM)
        end, _ = await daemon.end()
        took_s = asyncio.get_running_loop().time() - begun_at
        writer.close()
    assert end.status == ExitCode.OK
    assert took_s < 10  # of 30 that a drain may take


async def test_who_comes_first_when_the_daemon_stops_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begins, may_end = asyncio.Event(), asyncio.Event()

    async def import_slowly(name: str) -> ModuleType:
        begins.set()
        await may_end.wait()
        return await import_in_thread(name)

    monkeypatch.setattr("exai.transports.mcp_door.import_in_thread", import_slowly)
    config = daemon_config(tmp_path)
    async with (
        asyncio.timeout(PATIENCE_S),
        running_daemon(config) as daemon,
        http_client(daemon) as me,
        peer(daemon) as other,
    ):
        asked = [asyncio.create_task(me.post(INITIALIZE)) for _ in range(3)]
        await begins.wait()
        daemon.stop.set()
        async with asyncio.timeout(config.server.close_timeout_s / 2):
            while not daemon.daemon._mcp._is_over:  # noqa: ASYNC110, SLF001
                await asyncio.sleep(0.01)
            may_end.set()
            assert [(await each).status_code for each in asked] == [503, 503, 503]
            await other.websocket.wait_closed()
            await daemon.events.wait_for(DaemonStopped, 1)
