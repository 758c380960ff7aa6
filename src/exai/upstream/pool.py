"""All MCP servers behind the daemon: started together, none waiting for another.

Knows which servers there are, and how one takes the place of another while the daemon runs;
knows nothing of their tools.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from exai.core.clock import Clock
from exai.core.config import LimitsConfig, UpstreamConfig
from exai.core.events import EventSink
from exai.core.identity import Principal
from exai.core.tool import upstream_scope
from exai.processes.process_guard import ProcessGuard
from exai.upstream.catalog_listener import CatalogListener, NobodyHears
from exai.upstream.daemon_services import DaemonServices
from exai.upstream.handshake import Handshake
from exai.upstream.http_client import HttpClient
from exai.upstream.log_levels import LogLevels
from exai.upstream.restart_policy import RestartPolicy
from exai.upstream.server import OnTools, OwnInstance, UpstreamServer, UpstreamStatistics

_IN_PLACE = {
    "prefix",
    "allow",
    "deny",
    "max_inflight",
    "timeout_s",
    "trust_annotations",
    "tools",
    "idle_stop_s",
    "max_instances",
    "start_timeout_s",
}
"""What can change while a server runs: how it is offered, and how many run for how long."""


class Changes(msgspec.Struct, frozen=True):
    """What another configuration has changed: names of servers."""

    added: list[str]
    removed: list[str]
    restarted: list[str]
    adjusted: list[str]
    """Those that run on, and are offered or bounded in another way."""


class UpstreamPool:
    """The servers by name; as a context, it keeps them alive inside and stops them at the end."""

    def __init__(
        self,
        configs: Mapping[str, UpstreamConfig],
        *,
        version: str,
        guard: ProcessGuard,
        base_environment: Mapping[str, str],
        limits: LimitsConfig,
        events: EventSink,
        clock: Clock,
        on_tools: OnTools,
        listener: CatalogListener | None = None,
        restart: RestartPolicy | None = None,
    ) -> None:
        self._http = HttpClient(version)
        self.log_levels = LogLevels(self._note_log_levels)
        self._services = DaemonServices(
            guard=guard,
            http=self._http,
            handshake=Handshake(version),
            base_environment=base_environment,
            limits=limits,
            restart=restart or RestartPolicy(),
            events=events,
            clock=clock,
            listener=listener or NobodyHears(),
            log_levels=self.log_levels,
        )
        self._on_tools = on_tools
        self.servers = {
            name: self._server(name, config)
            for name, config in configs.items()
            if not config.disabled
        }
        self.is_open = False
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._ending: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        """Begin to start all servers; returns at once."""
        await self._http.__aenter__()
        await self._group.__aenter__()
        self.is_open = True
        for name in self.servers:
            self._begin(name)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all servers at the same time, each within its bounds."""
        self.is_open = False
        for task in self._tasks:
            task.cancel()
        try:
            await self._group.__aexit__(kind, error, traceback)
        finally:
            await self._http.__aexit__(kind, error, traceback)

    async def wait_first_starts(self, timeout_s: float) -> None:
        """Wait until each server's first start has succeeded or failed, or for `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for server in list(self.servers.values()):
                    await server.wait_first_start()

    def apply(self, configs: Mapping[str, UpstreamConfig]) -> Changes:
        """Let these be the servers from now on; those whose configuration is the same go on.

        A server that ends has `cancel_grace_s` for its running calls; who takes its place
        starts when it has ended.
        """
        wanted = {name: config for name, config in configs.items() if not config.disabled}
        present = {name: server.config for name, server in self.servers.items()}
        differing = [name for name in wanted if name in present and wanted[name] != present[name]]
        changes = Changes(
            added=[name for name in wanted if name not in present],
            removed=[name for name in present if name not in wanted],
            restarted=[n for n in differing if _differ_in_running(wanted[n], present[n])],
            adjusted=[n for n in differing if not _differ_in_running(wanted[n], present[n])],
        )
        for name in changes.removed:
            self._end(name, self._services.limits.cancel_grace_s)
            del self.servers[name], self._running[name]
        for name in changes.restarted:
            self._replace(name, wanted[name], self._services.limits.cancel_grace_s)
        for name in changes.adjusted:
            self.servers[name].adjust(wanted[name])
        for name in changes.added:
            self.servers[name] = self._server(name, wanted[name])
            self._begin(name)
        ordered = {name: self.servers[name] for name in wanted}
        self.servers.clear()
        self.servers.update(ordered)
        return changes

    def restart(self, name: str) -> UpstreamServer:
        """End a server as a crash would, and return the one that takes its place."""
        return self._replace(name, self.servers[name].config, 0.0)

    def _server(
        self, name: str, config: UpstreamConfig, replaced: UpstreamServer | None = None
    ) -> UpstreamServer:
        return UpstreamServer(name, config, self._services, self._on_tools, replaced)

    def _replace(self, name: str, config: UpstreamConfig, drain_s: float) -> UpstreamServer:
        follower = self._server(name, config, self.servers[name])
        self._end(name, drain_s)
        self.servers[name] = follower
        self._begin(name)
        return follower

    def _begin(self, name: str) -> None:
        """Let the server of this name run once all before it have ended."""
        run = self._run_after(self._ending.get(name), self.servers[name])
        self._running[name] = self._start(run)

    def _end(self, name: str, drain_s: float) -> None:
        before = self._ending.get(name)
        stopping = self._stop(self.servers[name], self._running[name], drain_s, before)
        self._ending[name] = ending = self._start(stopping)
        ending.add_done_callback(lambda ended: self._forget_ending(name, ended))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start what is cancelled at the pool's end, also where it has not begun to run."""
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _forget_ending(self, name: str, ended: asyncio.Task[None]) -> None:
        if self._ending.get(name) is ended:
            del self._ending[name]

    async def _run_after(self, ending: asyncio.Task[None] | None, server: UpstreamServer) -> None:
        if ending is not None:
            await asyncio.wait([ending])
        await server.run()

    async def _stop(
        self,
        server: UpstreamServer,
        running: asyncio.Task[None],
        drain_s: float,
        before: asyncio.Task[None] | None,
    ) -> None:
        """Stop a server when its calls have ended, or after `drain_s`; return when it has ended."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_s):
                    await server.wait_idle()
        finally:
            running.cancel()
        await asyncio.wait([running, *([before] if before else [])])
        server.end()

    def end_session(self, session_id: str) -> None:
        """Stop what works for this session alone, which has ended, and tell it nothing more."""
        self.log_levels.end_session(session_id)
        for server in self.servers.values():
            server.end_session(session_id)

    def _note_log_levels(self) -> None:
        for server in self.servers.values():
            server.note_log_levels()

    def scope_limits(self) -> dict[str, int]:
        """Return how many calls each server takes at once, by its scope."""
        return {
            upstream_scope(name): server.config.max_inflight
            for name, server in self.servers.items()
        }

    def awaited_scopes(self) -> list[str]:
        """Return the scopes of servers whose first start has neither succeeded nor failed."""
        waiting = [name for name, server in self.servers.items() if not server.had_first_start]
        return [upstream_scope(name) for name in waiting]

    def statistics(self) -> list[UpstreamStatistics]:
        """Return how each server fares."""
        return [server.statistics() for server in self.servers.values()]

    def statistics_of(self, name: str) -> UpstreamStatistics:
        """Return how one server fares."""
        return self.servers[name].statistics()

    def instances_of(self, principal: Principal) -> list[OwnInstance]:
        """Return the instances that serve this principal alone, or one of its sessions."""
        return [own for server in self.servers.values() for own in server.instances_of(principal)]


def _differ_in_running(one: UpstreamConfig, other: UpstreamConfig) -> bool:
    fields = set(UpstreamConfig.__struct_fields__) - _IN_PLACE
    return any(getattr(one, field) != getattr(other, field) for field in fields)
