"""The ports are tested on both event loops that a daemon may run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on both."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=["picows", "websockets"])
def library(request: pytest.FixtureRequest) -> str:
    """Name each of the WebSocket libraries."""
    return str(request.param)
