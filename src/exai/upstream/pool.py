"""All MCP servers behind the daemon: started together, none waiting for another.

Knows which servers there are; knows nothing of their tools.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from exai.core.clock import Clock
from exai.core.config import LimitsConfig, UpstreamConfig
from exai.core.events import EventSink
from exai.core.identity import Principal
from exai.core.tool import upstream_scope
from exai.processes.process_guard import ProcessGuard
from exai.upstream.handshake import Handshake
from exai.upstream.http_client import HttpClient
from exai.upstream.instance import Surroundings
from exai.upstream.log_levels import LogLevels
from exai.upstream.news import NobodyHears, ServerNews
from exai.upstream.restart_policy import RestartPolicy
from exai.upstream.server import OnTools, OwnInstance, UpstreamServer, UpstreamStatistics


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
        news: ServerNews | None = None,
        restart: RestartPolicy | None = None,
    ) -> None:
        self._http = HttpClient(version)
        self.log_levels = LogLevels(self._note_log_levels)
        around = Surroundings(
            guard=guard,
            http=self._http,
            handshake=Handshake(version),
            base_environment=base_environment,
            limits=limits,
            restart=restart or RestartPolicy(),
            events=events,
            clock=clock,
            news=news or NobodyHears(),
            log_levels=self.log_levels,
        )
        self.servers = {
            name: UpstreamServer(name, config, around, on_tools)
            for name, config in configs.items()
            if not config.disabled
        }
        self._group = asyncio.TaskGroup()
        self._running: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Begin to start all servers; returns at once."""
        await self._http.__aenter__()
        await self._group.__aenter__()
        self._running = [self._group.create_task(s.run()) for s in self.servers.values()]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop all servers at the same time, each within its bounds."""
        for running in self._running:
            running.cancel()
        try:
            await self._group.__aexit__(kind, error, traceback)
        finally:
            await self._http.__aexit__(kind, error, traceback)

    async def wait_first_starts(self, timeout_s: float) -> None:
        """Wait until each server's first start has succeeded or failed, or for `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                for server in self.servers.values():
                    await server.wait_first_start()

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

    def instances_of(self, principal: Principal) -> list[OwnInstance]:
        """Return the instances that serve this principal alone, or one of its sessions."""
        return [own for server in self.servers.values() for own in server.instances_of(principal)]
