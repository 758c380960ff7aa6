"""A whole daemon inside the test's own process, on ports of its own."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from exai.calls.upstream_control import ReadConfig
from exai.core.config import Config, LocalModelConfig, PrincipalConfig, Secret, ServerConfig
from exai.core.events import Event, EventSink
from exai.core.tool import Tool
from exai.stores.stores import Stores
from exai.transports.doors import DaemonAddress
from exai.ws_server import Daemon, build_daemon

TOKEN = "token-of-the-tests-0123456789"
_PATIENCE_S = 30.0


class RecordedEvents(EventSink):
    """Keeps every event, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._emitted = asyncio.Event()

    def emit(self, event: Event) -> None:
        """Keep one event."""
        self.events.append(event)
        self._emitted.set()

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def first_of(self, kind: type[Event]) -> Any:
        """Wait until there is an event of this kind, and return the first."""
        await self.wait_for(kind, 1)
        return self.of(kind)[0]

    async def wait_for(self, kind: type[Event], count: int) -> None:
        """Wait until there are so many events of this kind."""
        async with asyncio.timeout(_PATIENCE_S):
            while len(self.of(kind)) < count:
                self._emitted.clear()
                await self._emitted.wait()


class RunningDaemon(NamedTuple):
    """A daemon that takes calls. Setting `stop` has it drain and close."""

    daemon: Daemon
    address: DaemonAddress
    events: RecordedEvents
    stop: asyncio.Event

    @property
    def url(self) -> str:
        """Where its WebSocket is."""
        return self.address.websocket_url


def daemon_config(state_dir: Path, **sections: Any) -> Config:
    """Return a configuration with free ports, one principal with `TOKEN`, and no model.

    `sections` are whole sections of the tree; of `server` only the ports are overruled.
    """
    server = msgspec.structs.replace(sections.pop("server", ServerConfig()), port=0, http_port=0)
    defaults: dict[str, Any] = {
        "local": LocalModelConfig(enabled=False),
        "principals": {"default": PrincipalConfig(token=Secret(TOKEN), may_rotate=True)},
    }
    return Config(state_dir=state_dir, server=server, **(defaults | sections))


@asynccontextmanager
async def running_daemon(
    config: Config,
    tools: Sequence[Tool] = (),
    *,
    environment: Mapping[str, str] | None = None,
    stores: Stores | None = None,
    read_config: ReadConfig | None = None,
) -> AsyncIterator[RunningDaemon]:
    """Run a daemon while the context is open, with `tools` beside its own."""
    events = RecordedEvents()
    daemon = build_daemon(
        config,
        environment=environment or {"PATH": os.defpath},
        events=events,
        stores=stores,
        read_config=read_config,
    )
    daemon.tools.replace("test", tools)
    stop = asyncio.Event()
    ready: asyncio.Future[DaemonAddress] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(daemon.run(stop, ready.set_result))
        async with asyncio.timeout(_PATIENCE_S):
            address = await ready
        try:
            yield RunningDaemon(daemon, address, events, stop)
        finally:
            stop.set()
