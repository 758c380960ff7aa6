"""What the tests of this room share."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from exai.processes.process_guard import ProcessGuard
from exai.testing.scripted_provider import ScriptedProvider


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    """A scripted LLM service on a loopback socket."""
    async with ScriptedProvider() as service:
        yield service


@pytest.fixture
async def guard() -> AsyncIterator[ProcessGuard]:
    """What starts children, as the daemon has one."""
    async with ProcessGuard() as guard:
        yield guard


@pytest.fixture
async def tasks(guard: ProcessGuard) -> AsyncIterator[asyncio.TaskGroup]:
    """What looks after children; whoever starts one ends it first."""
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        yield tasks
