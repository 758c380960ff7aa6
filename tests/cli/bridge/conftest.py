"""A bridge before a scripted daemon, as an IDE has started it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.bridge_process import BridgeProcess, bridging
from tests.cli.exai_process import Shell
from tests.client.scripted_daemon import TOKEN, ScriptedDaemon, scripted_daemon


@pytest.fixture
async def daemon() -> AsyncIterator[ScriptedDaemon]:
    async with scripted_daemon() as daemon:
        yield daemon


@pytest.fixture
def shell(daemon: ScriptedDaemon, home: Path) -> Shell:
    shell = Shell(home)
    shell.environ |= {"EXAI_WS_TOKEN": TOKEN, "EXAI_WS_PORT": daemon.url[:-1].rpartition(":")[2]}
    return shell


@pytest.fixture
async def bridge(shell: Shell) -> AsyncIterator[BridgeProcess]:
    """Return a bridge whose client has shaken hands."""
    async with bridging(shell) as bridge:
        await bridge.shake_hands()
        yield bridge
