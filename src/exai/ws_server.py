"""The composition root: builds every part, wires them, opens, drains and closes.

Nothing here is global: two daemons with different configurations live in one process.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version

from starlette.routing import BaseRoute

from exai.calls.call_path import CallPath
from exai.connections.announcer import Announcer
from exai.connections.reception import Reception
from exai.core.clock import Clock, SystemClock
from exai.core.config import OPEN_ACCESS, Config
from exai.core.events import (
    AccessOpened,
    DaemonDraining,
    DaemonOpened,
    DaemonReady,
    DaemonStopped,
    EventSink,
)
from exai.core.lifecycle import PatientTaskGroup, lone_cause, running
from exai.core.replies import GoingAway
from exai.observe.metrics import Fanout, Metrics
from exai.observe.observation import Observation, Observed
from exai.observe.readiness import Readiness
from exai.observe.upstream_logs import UpstreamLogs
from exai.processes.process_guard import ProcessGuard
from exai.processes.succession import NOTHING, Inheritance
from exai.protocols import close_codes
from exai.protocols.hello import PROTOCOL, ServerName
from exai.providers.registry import ProviderRegistry
from exai.stores.instance_lock import InstanceLock
from exai.stores.stores import Stores, stores_of
from exai.tools.built_in import VersionTool
from exai.tools.own_tools import own_tools
from exai.tools.registry import ToolRegistry
from exai.tools.upstream_control import ReadConfig, UpstreamControl, unchanged
from exai.tools.upstreams import Upstreams
from exai.transports.daemon_routes import daemon_routes
from exai.transports.doors import DaemonAddress, Doors
from exai.transports.mcp_door import McpDoor
from exai.upstream.names import namespaces_of

SERVER = ServerName("exai", version("exai"))
_RECONNECT_AFTER_S = 2.0


class Daemon:
    """One daemon: its parts, and the one written sequence of its life."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        events: EventSink,
        stores: Stores,
        clock: Clock,
        read_config: ReadConfig,
    ) -> None:
        self._config = config
        self.tools = ToolRegistry(namespaces_of(config.upstreams))
        self._metrics = Metrics(self.tools.has)
        self._server_logs = UpstreamLogs(clock)
        self._events = Fanout(events, self._metrics, self._server_logs)
        self._clock = clock
        self._built_at = clock.monotonic_s()
        self._tasks = PatientTaskGroup()
        self._announcer = Announcer()
        self.tools.on_change(self._announcer.tell_tools_changed)
        self._guard = ProcessGuard()
        self._upstreams = Upstreams(
            config,
            self.tools,
            self._announcer,
            version=SERVER.version,
            guard=self._guard,
            environment=environment,
            events=self._events,
            clock=clock,
        )
        self._upstream_pool = self._upstreams.pool
        self._readiness = Readiness(self._upstream_pool.awaited_scopes)
        self._providers = self._build_providers()
        self.stores = stores
        self._calls = self._build_call_path()
        self._reception = Reception(
            config,
            SERVER,
            self._calls.router,
            stores.sessions,
            announcer=self._announcer,
            durable=stores.calls.durable,
            tasks=self._tasks,
            clock=clock,
            events=self._events,
        )
        self._sessions, self._tokens = self._reception.sessions, self._reception.tokens
        self._observation = self._build_observation()
        self._mcp = McpDoor(config, self._reception, self.tools, SERVER, self._events)
        serve, may_enter = self._mcp.beside(self._reception.serve), self._mcp.may_enter
        routes = [*self._build_routes(read_config), self._mcp.route]
        self._doors = Doors(config.server, serve, routes, may_enter, self._events)
        self._lock = InstanceLock(config.state_dir)

    async def run(
        self,
        stop: asyncio.Event,
        on_ready: Callable[[DaemonAddress], object],
        inherited: Inheritance = NOTHING,
    ) -> None:
        """Open, tell where, serve until `stop` is set, drain, close.

        What was inherited is used where it fits the configuration. Whatever else ends the
        daemon sets `stop`, and closes without draining, as a crash would.
        Raises `AlreadyRunning` for a state directory in use, `OSError` for a port in use,
        `RotationsUnreadable` for rotated tokens that cannot be read, `DatabaseUnusable` or
        `ServiceUnavailable` for a ledger that cannot be, `CertificateUnusable`.
        """
        self._offer_own_tools()
        self._doors.load_certificate()
        with InstanceLock(self._config.state_dir, inherited.lock) as self._lock, lone_cause():
            self._tokens.load_rotations()
            async with (
                self.stores,
                self._guard,
                self._tasks,
                self._doors.http_open(inherited),
                self._providers,
                self._upstream_pool,
                self._recovered(),
                self._doors.websocket_open(inherited),
                running(
                    *(part.run() for part in self._calls.background),
                    *(sessions.run_cleanup() for sessions in self._reception.all_sessions),
                    self._mcp.run(),
                    self._become_ready(),
                    self._doors.watch_certificate(),
                ),
            ):
                self._tell_opened(on_ready)
                over = asyncio.Event()
                self._observation.monitor.start_monitoring_tasks(over, self._tasks)
                try:
                    await stop.wait()
                finally:
                    stop.set()
                stopped_at = self._clock.monotonic_s()
                interrupted_count = await self._drain()
                over.set()
        stop_s = self._clock.monotonic_s() - stopped_at
        self._events.emit(DaemonStopped(stop_s, interrupted_count))

    @asynccontextmanager
    async def _recovered(self) -> AsyncIterator[None]:
        """Take up what an earlier process left, before anybody can ask for it."""
        await self._reception.restore(self.stores.calls.ledger_id)
        await self._calls.recovery.run(self._reception.find_session)
        yield

    def rehearse(self, inherited: Inheritance) -> None:
        """Raise what would keep `run` from serving; open nothing for good, and start nothing.

        Raises `ImportError`, too, where a part of the program is missing.
        """
        InstanceLock(self._config.state_dir, inherited.lock).rehearse()
        self._tokens.load_rotations()
        self.stores.rehearse()
        self._doors.rehearse(inherited)

    @property
    def estate(self) -> Inheritance:
        """What a successor would inherit, while the ports are open."""
        return self._doors.estate(self._lock.descriptor)

    async def hand_over(self) -> Inheritance:
        """Return what a successor inherits, to outlive us; new WebSocket peers wait for it."""
        return await self._doors.hand_over(self._lock.descriptor)

    async def _become_ready(self) -> None:
        """Be ready once each MCP server has had its first start, or enough time for it."""
        await self._upstream_pool.wait_first_starts(self._config.server.ready_wait_s)
        self.tools.end_start()
        if self._readiness.status == "starting":
            self._readiness.status = "ok"
            self._events.emit(DaemonReady(self._clock.monotonic_s() - self._built_at))

    async def _drain(self) -> int:
        """Take nothing new, finish what runs, tell every peer, and let them go.

        Returns how many calls were cut off.
        """
        self._readiness.status = "draining"
        server, begun_at = self._config.server, self._clock.monotonic_s()
        session_count, call_count = len(self._sessions), len(self._calls.sharing)
        self._events.emit(DaemonDraining(server.drain_s, session_count, call_count))
        self._sessions.drain(GoingAway("restart", _RECONNECT_AFTER_S))
        self._reception.mcp_sessions.drain()
        interrupted_count = await self._calls.router.drain(server.drain_s)
        left_s = begun_at + server.drain_s - self._clock.monotonic_s()
        patience_s = max(left_s, server.close_timeout_s)
        await self._sessions.close_all(close_codes.SERVICE_RESTART, patience_s)
        await self._mcp.close_all(close_codes.SERVICE_RESTART, patience_s)
        return interrupted_count

    def _tell_opened(self, on_ready: Callable[[DaemonAddress], object]) -> None:
        address = self._doors.address
        self._events.emit(
            DaemonOpened(SERVER.version, os.getpid(), *address, self._config.auth.mode)
        )
        if self._config.auth.mode == "none":
            self._events.emit(AccessOpened(OPEN_ACCESS))
        on_ready(address)

    def _offer_own_tools(self) -> None:
        version_tool = VersionTool(SERVER.name, SERVER.version, PROTOCOL)
        conversations, limits = self.stores.conversations, self._config.conversations
        own = own_tools(version_tool, self._providers, conversations, limits, self._clock)
        self.tools.replace(SERVER.name, own)

    def _build_providers(self) -> ProviderRegistry:
        return ProviderRegistry(
            self._config.providers,
            self._config.local,
            default_model=self._config.tools.default_model,
            events=self._events,
            guard=self._guard,
            tasks=self._tasks,
            max_result_bytes=self._config.limits.max_result_bytes,
        )

    def _build_observation(self) -> Observation:
        observed = Observed(
            config=self._config,
            version=SERVER.version,
            readiness=self._readiness,
            ports=lambda: self._doors.ports,
            calls=self._calls,
            reception=self._reception,
            tools=self.tools,
            conversations=self.stores.conversations,
            providers=self._providers,
            upstreams=self._upstreams,
        )
        return Observation(observed, self._metrics, self._clock, self._events)

    def _build_call_path(self) -> CallPath:
        ttl_s = self._config.conversations.ttl_s
        return CallPath(
            self._config.limits,
            self._providers.scope_limits() | self._upstream_pool.scope_limits(),
            tools=self.tools,
            never_share=self._config.tools.never_share,
            store=self.stores.calls,
            tasks=self._tasks,
            clock=self._clock,
            events=self._events,
            health=lambda principal: self._observation.health.report(principal),
            progress_interval_s=self._config.server.progress_interval_s,
            on_session_end=self._upstream_pool.end_session,
            sweeps=[lambda: self.stores.conversations.expire(self._clock.wall_s(), ttl_s)],
        )

    def _build_routes(self, read_config: ReadConfig) -> list[BaseRoute]:
        control = UpstreamControl(self._upstreams, self._calls.relimit, read_config, self._events)
        return daemon_routes(
            self._readiness,
            self._observation,
            explain=self._calls.explaining.explain,
            servers=control,
            server_logs=self._server_logs.tail,
            authenticate=self._tokens.authenticate,
        )


def build_daemon(
    config: Config,
    *,
    environment: Mapping[str, str],
    events: EventSink,
    stores: Stores | None = None,
    clock: Clock | None = None,
    read_config: ReadConfig | None = None,
) -> Daemon:
    """Build a daemon from its configuration; nothing is opened yet.

    `environment` is what children may see a safe part of; `read_config` reads the
    configuration again, for a reload.
    """
    stores = stores or stores_of(config.store, config.state_dir)
    clock, read_config = clock or SystemClock(), read_config or (lambda: unchanged(config))
    return Daemon(config, environment, events, stores, clock, read_config)
