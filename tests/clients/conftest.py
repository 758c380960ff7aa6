"""A daemon that clients of all kinds come to, with the conformance suite's server behind it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.cli.exai_process import Shell
from tests.conformance.targets import Door, daemon_before, fixture_server

TOKEN = "token-of-the-clients-0123456789"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    shell = Shell(tmp_path)
    shell.environ["EXAI_WS_TOKEN"] = TOKEN
    return shell


@pytest.fixture
async def door(shell: Shell) -> AsyncIterator[Door]:
    async with daemon_before(shell, {"everything": fixture_server()}) as door:
        yield door


@pytest.fixture
async def open_door(shell: Shell) -> AsyncIterator[Door]:
    del shell.environ["EXAI_WS_TOKEN"]
    shell.environ["EXAI_AUTH"] = "none"
    async with daemon_before(shell, {"everything": fixture_server()}) as door:
        yield door
