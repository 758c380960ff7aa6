"""The ports are tested on the event loops that a daemon may run on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the WebSocket port on both, since its libraries reach down to the sockets."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"uvloop": uvloop.new_event_loop}
    if item.path.name.startswith("test_websocket"):
        loops["asyncio"] = asyncio.new_event_loop
    return loops


@pytest.fixture(params=["picows", "websockets"])
def library(request: pytest.FixtureRequest) -> str:
    """Name each of the WebSocket libraries."""
    return str(request.param)
