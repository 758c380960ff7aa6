"""A real server process under the daemon's own supervision, for one test."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import msgspec

from exai.core.client_side import ClientSide
from exai.core.clock import SystemClock
from exai.core.config import LimitsConfig, UpstreamConfig
from exai.core.events import Event
from exai.core.identity import Principal
from exai.core.outcomes import Completed, text_of
from exai.core.tool import LogLevel, ToolRun
from exai.processes.process_guard import ProcessGuard
from exai.upstream import server_life, server_process
from exai.upstream.daemon_services import DaemonServices
from exai.upstream.handshake import Handshake
from exai.upstream.http_client import HttpClient
from exai.upstream.pool import UpstreamPool
from exai.upstream.restart_policy import RestartPolicy
from exai.upstream.server import UpstreamServer

BOUND_S = 20.0
"""No wait in a test is longer."""

SCRIPTED = Path(__file__).parent / "servers" / "scripted.py"
EventT = TypeVar("EventT", bound=Event)
EAGER = RestartPolicy(first_delay_s=0.02, max_delay_s=0.1, give_up_after=4, rare_delay_s=60.0)


def scripted(*options: str, **settings: Any) -> UpstreamConfig:
    """Return the configuration of the scripted server."""
    args = ("-I", "-S", str(SCRIPTED), *options)
    return UpstreamConfig(command=sys.executable, args=args, **settings)


class Recorder:
    """Keeps all events, and lets a test wait for one."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._more = asyncio.Event()

    def emit(self, event: Event) -> None:
        self.events.append(event)
        self._more.set()

    def of(self, kind: type[EventT]) -> list[EventT]:
        return [event for event in self.events if isinstance(event, kind)]

    async def wait_for(self, kind: type[Event], count: int = 1) -> None:
        async with asyncio.timeout(BOUND_S):
            while len(self.of(kind)) < count:
                self._more.clear()
                await self._more.wait()


class Run(ToolRun):
    """One execution, which keeps what is reported."""

    def __init__(
        self,
        session_id: str = "s1",
        client: ClientSide | None = None,
        *,
        principal: str = "test",
        meta: dict[str, Any] | None = None,
        input: dict[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        self.call_id = "call"
        self.principal = Principal(principal)
        self.session_id = session_id
        self.client = client
        self.meta = meta or {}
        self.input = input or {}
        self._deadline = float("inf")
        if timeout_s is not None:
            self._deadline = asyncio.get_running_loop().time() + timeout_s
        self.logged: list[dict[str, Any]] = []
        self.reports: list[tuple[str | None, float | None, float | None]] = []

    @property
    def deadline(self) -> float:
        return self._deadline

    def report(
        self,
        message: str | None = None,
        *,
        progress: float | None = None,
        total: float | None = None,
        level: LogLevel | None = None,
    ) -> None:
        self.reports.append((message, progress, total))

    def log(self, entry: dict[str, Any]) -> None:
        self.logged.append(entry)

    def stream(self, delta: str) -> None:
        raise AssertionError("an MCP server streams nothing")

    def begin_attempt(self) -> None:
        raise AssertionError("a call is never tried twice")

    def permit(self, scope: str) -> AbstractAsyncContextManager[None]:
        raise AssertionError("an MCP server's permit is held before its call runs")


@dataclass
class Running:
    """Servers that run, and what a test sees of them."""

    pool: UpstreamPool
    events: Recorder
    listings: dict[str, list[list[str]]] = field(default_factory=dict)
    """Per server, the tool names of every listing so far."""

    @property
    def server(self) -> UpstreamServer:
        """The one server of a test that has one."""
        (server,) = self.pool.servers.values()
        return server

    async def call(self, tool: str, run: Run | None = None, /, **arguments: Any) -> Completed:
        return await self.server.call(tool, arguments, run or Run())

    async def say(self, tool: str, run: Run | None = None, /, **arguments: Any) -> str:
        """Call and return the text."""
        return text_of((await self.call(tool, run, **arguments)).outputs)


def daemon_services(events: Recorder) -> DaemonServices:
    """Return what a server needs that is never started."""
    return DaemonServices(
        guard=ProcessGuard(),
        http=HttpClient("1"),
        handshake=Handshake("1"),
        base_environment={},
        limits=LimitsConfig(),
        restart=EAGER,
        events=events,
        clock=SystemClock(),
    )


@asynccontextmanager
async def running(
    config: UpstreamConfig | Mapping[str, UpstreamConfig],
    *,
    restart: RestartPolicy = EAGER,
    base_environment: Mapping[str, str] = os.environ,
    wait: bool = True,
    **limits: Any,
) -> AsyncIterator[Running]:
    """Run servers; every wait inside is bounded."""
    configs = {"srv": config} if isinstance(config, UpstreamConfig) else config
    events = Recorder()
    listings: dict[str, list[list[str]]] = {}

    async def on_tools(server: UpstreamServer, tools: list[dict[str, Any]]) -> None:
        listings.setdefault(server.name, []).append([tool["name"] for tool in tools])

    with _impatience():
        async with asyncio.timeout(BOUND_S), ProcessGuard() as guard:
            pool = UpstreamPool(
                configs,
                version="1",
                guard=guard,
                base_environment=base_environment,
                limits=LimitsConfig(**limits),
                events=events,
                clock=SystemClock(),
                on_tools=on_tools,
                restart=restart,
            )
            async with pool:
                if wait:
                    await pool.wait_first_starts(BOUND_S)
                yield Running(pool, events, listings)


@contextmanager
def _impatience() -> Iterator[None]:
    """Let servers have less time to stop, and to go on changing their tools."""
    with (
        mock.patch.object(server_process, "_STOP_GRACE_S", 0.2),
        mock.patch.object(server_life, "_CHANGES_PAUSE_S", 0.05),
    ):
        yield


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what tells nobody that it has happened, such as the end of a foreign process."""
    async with asyncio.timeout(BOUND_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody reaps does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


PERSONAL = Path(__file__).parent / "servers" / "personal.py"


def personal(*options: str, instance: str = "session", **settings: Any) -> UpstreamConfig:
    """Return the configuration of a server that keeps state, of which each session has one."""
    return msgspec.convert(
        {
            "command": sys.executable,
            "args": (str(PERSONAL), *options),
            "instance": instance,
            **settings,
        },
        UpstreamConfig,
    )
