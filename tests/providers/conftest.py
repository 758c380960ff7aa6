"""What the tests of this room share."""

from collections.abc import AsyncIterator

import pytest

from exai.testing.scripted_provider import ScriptedProvider


@pytest.fixture
async def service() -> AsyncIterator[ScriptedProvider]:
    """A scripted LLM service on a loopback socket."""
    async with ScriptedProvider() as service:
        yield service
