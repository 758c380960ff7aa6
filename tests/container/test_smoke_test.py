"""The smoke test of the image says what is wrong with a daemon, whatever that is."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from exai.testing.running_daemon import TOKEN, daemon_config, running_daemon

ROOT = Path(__file__).parent.parent.parent
SCRIPT = str(ROOT / "container" / "test_suite.py")
PATIENCE_S = 30.0


async def smoke_test(
    home: Path, *arguments: str, urls: tuple[str, str], token: str = TOKEN
) -> tuple[int | None, list[str]]:
    """Run it against these addresses; return its status and its lines."""
    ports = [url.rstrip("/").rpartition(":")[2] for url in urls]
    environ = {
        "HOME": str(home),
        "EXAI_WS_TOKEN": token,
        "EXAI_WS_PORT": ports[0],
        "EXAI_SERVER_HTTP_PORT": ports[1],
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *(arguments or [SCRIPT])), cwd=ROOT, env=environ, stdout=PIPE
    )
    async with asyncio.timeout(PATIENCE_S):
        out, _ = await process.communicate()
    return process.returncode, out.decode().splitlines()


async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a connection, and never say anything."""
    await reader.read()
    writer.close()


async def test_all_checks_hold_for_a_daemon_as_it_should_be(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        status, lines = await smoke_test(tmp_path, urls=daemon.address)

    assert status == 0
    assert [line for line in lines[1:-1] if not line.startswith("ok ")] == []
    assert lines[-1] == "10 of 10 checks hold"


async def test_a_token_that_does_not_open_fails_the_checks_that_need_it(tmp_path: Path) -> None:
    async with running_daemon(daemon_config(tmp_path)) as daemon:
        status, lines = await smoke_test(tmp_path, urls=daemon.address, token="x" * 20)

    assert status == 1
    assert "FAIL  a tool runs and answers: 4003 unauthorized" in lines
    assert lines[-1] == "4 of 10 checks hold"


async def test_it_ends_in_time_though_nobody_answers(tmp_path: Path) -> None:
    hurried = "from container.test_suite import main; main(limit_s=0.5)"
    async with await asyncio.start_server(mute, "127.0.0.1", 0) as server:
        _, port = server.sockets[0].getsockname()
        status, lines = await smoke_test(tmp_path, "-c", hurried, urls=(":1", f":{port}"))

    assert status == 1
    assert lines[-1] == "FAIL  the checks did not end within 0.5 s"
