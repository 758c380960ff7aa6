"""The composition root: builds every part, wires them, opens, drains and closes.

Nothing here is global: two daemons with different configurations live in one process.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Set
from importlib.metadata import version
from ssl import SSLContext
from typing import Any, NamedTuple

from exai.calls.call_path import CallPath
from exai.connections.reception import Reception
from exai.core.call_store import CallStore
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
from exai.core.identity import Principal
from exai.core.lifecycle import PatientTaskGroup, lone_cause, running
from exai.core.replies import GoingAway, ToolsChanged
from exai.core.tool import provider_scope, upstream_scope
from exai.observe.health_file import HEALTH_FILE, HealthFile
from exai.observe.health_monitor import HealthMonitor
from exai.observe.health_report import (
    HealthPart,
    HealthReport,
    facts_of,
    for_those_who_see_everything,
)
from exai.observe.metrics import Counted, Fanout, Metrics
from exai.observe.permit_audit import PermitAudit
from exai.processes.process_guard import ProcessGuard
from exai.protocols import close_codes
from exai.protocols.hello import PROTOCOL, ServerName
from exai.providers.registry import ProviderRegistry
from exai.stores.instance_lock import InstanceLock
from exai.stores.memory_conversations import MemoryConversationStore
from exai.stores.memory_store import MemoryCallStore
from exai.tools.built_in import EchoTool, VersionTool
from exai.tools.chat import ChatTool
from exai.tools.list_models import ListModelsTool
from exai.tools.registry import ToolRegistry
from exai.tools.upstream_tools import UpstreamTools
from exai.transports.health_routes import health_routes
from exai.transports.http_app import HttpServer
from exai.transports.server_certificate import ServerCertificate
from exai.transports.websocket import WebSocketServer
from exai.upstream.pool import UpstreamPool

SERVER = ServerName("exai", version("exai"))
_RECONNECT_AFTER_S = 2.0
_FACTS_BYTES = 4096
_OPERATOR = Principal("operator")
_STARTING, _OK, _DRAINING = "starting", "ok", "draining"


class DaemonAddress(NamedTuple):
    """Where a daemon that is ready can be reached."""

    websocket_url: str
    http_url: str


class Daemon:
    """One daemon: its parts, and the one written sequence of its life."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        events: EventSink,
        store: CallStore,
        clock: Clock,
    ) -> None:
        self._config = config
        self.tools = ToolRegistry()
        self._metrics = Metrics(self.tools.has)
        self._events = Fanout(events, self._metrics)
        self._clock = clock
        self._built_at = clock.monotonic_s()
        self._status = _STARTING
        self._tasks = PatientTaskGroup()
        self._upstream_tools = UpstreamTools(self.tools, self._events)
        self._guard = ProcessGuard()
        self._upstreams = self._build_upstreams(environment)
        self._providers = self._build_providers()
        self._store = store
        self._conversations = MemoryConversationStore()
        self._calls = self._build_call_path()
        self._health = self._build_health()
        self._monitor = self._build_monitor()
        self._reception = self._build_reception()
        self._sessions, self._tokens = self._reception.sessions, self._reception.tokens
        self._certificate = self._build_certificate()
        self._websocket = WebSocketServer(config.server, self._reception.serve, self._tls())
        self._http = self._build_http()

    async def run(self, stop: asyncio.Event, on_ready: Callable[[DaemonAddress], object]) -> None:
        """Open, tell where, serve until `stop` is set, drain, close.

        Whatever else ends it sets `stop`, and closes without draining, as a crash would.
        Raises `AlreadyRunning` for a state directory in use, `OSError` for a port in use,
        `RotationsUnreadable` for rotated tokens that cannot be read, `CertificateUnusable`.
        """
        self._offer_own_tools()
        if self._certificate is not None:
            self._certificate.load()
        with InstanceLock(self._config.state_dir), lone_cause():
            self._tokens.load_rotations()
            async with (
                self._guard,
                self._tasks,
                self._providers,
                self._upstreams,
                self._http,
                self._websocket,
                running(
                    *(part.run() for part in self._calls.background),
                    self._sessions.run_cleanup(),
                    self._become_ready(),
                    self._watch_certificate(),
                ),
            ):
                self._tell_opened(on_ready)
                over = asyncio.Event()
                self._monitor.start_monitoring_tasks(over, self._tasks)
                try:
                    await stop.wait()
                finally:
                    stop.set()
                stopped_at = self._clock.monotonic_s()
                interrupted_count = await self._drain()
                over.set()
        try:
            await self._store.close()
        finally:
            await self._conversations.close()
        stop_s = self._clock.monotonic_s() - stopped_at
        self._events.emit(DaemonStopped(stop_s, interrupted_count))

    async def _become_ready(self) -> None:
        """Be ready once each MCP server has had its first start, or enough time for it."""
        await self._upstreams.wait_first_starts(self._config.server.ready_wait_s)
        if self._status == _STARTING:
            self._status = _OK
            self._events.emit(DaemonReady(self._clock.monotonic_s() - self._built_at))

    async def _watch_certificate(self) -> None:
        if self._certificate is not None:
            await self._certificate.watch(self._config.server.tls_reload_interval_s)

    async def _drain(self) -> int:
        """Take nothing new, finish what runs, tell every peer, and let them go.

        Returns how many calls were cut off.
        """
        self._status = _DRAINING
        server, begun_at = self._config.server, self._clock.monotonic_s()
        session_count, call_count = len(self._sessions), len(self._calls.sharing)
        self._events.emit(DaemonDraining(server.drain_s, session_count, call_count))
        self._sessions.drain(GoingAway("restart", _RECONNECT_AFTER_S))
        interrupted_count = await self._calls.router.drain(server.drain_s)
        left_s = begun_at + server.drain_s - self._clock.monotonic_s()
        await self._sessions.close_all(
            close_codes.SERVICE_RESTART, max(left_s, server.close_timeout_s)
        )
        return interrupted_count

    def _tell_opened(self, on_ready: Callable[[DaemonAddress], object]) -> None:
        address = self._address()
        self._events.emit(
            DaemonOpened(SERVER.version, os.getpid(), *address, self._config.auth.mode)
        )
        if self._config.auth.mode == "none":
            self._events.emit(AccessOpened(OPEN_ACCESS))
        on_ready(address)

    def _address(self) -> DaemonAddress:
        host = self._config.server.host
        shown = f"[{host}]" if ":" in host else host
        s = "s" if self._certificate is not None else ""
        return DaemonAddress(
            f"ws{s}://{shown}:{self._websocket.port}/", f"http{s}://{shown}:{self._http.port}/"
        )

    def _blocked_by(self) -> dict[str, str]:
        """Return the parts that keep the daemon from being ready, each with its state."""
        if self._status == _OK:
            return {}
        waits_for = self._upstreams.awaiting_first_start() if self._status == _STARTING else []
        return {"daemon": self._status} | {upstream_scope(n): _STARTING for n in waits_for}

    def _scope_limits(self) -> dict[str, int]:
        providers = self._providers.capacities().items()
        upstreams = self._upstreams.servers.items()
        return {provider_scope(name): count for name, count in providers} | {
            upstream_scope(name): server.config.max_inflight for name, server in upstreams
        }

    def _offer_own_tools(self) -> None:
        self.tools.on_change(self._tell_tools_changed)
        self.tools.replace(
            SERVER.name,
            [
                EchoTool(),
                VersionTool(SERVER.name, SERVER.version, PROTOCOL),
                ListModelsTool(self._providers),
                ChatTool(
                    self._providers,
                    self._conversations,
                    self._config.conversations,
                    self._clock,
                ),
            ],
        )

    def _tell_tools_changed(self, names: Set[str]) -> None:
        for session in self._sessions:
            if any(session.principal.may_use(name) for name in names):
                session.send(ToolsChanged())

    def _build_upstreams(self, environment: Mapping[str, str]) -> UpstreamPool:
        return UpstreamPool(
            self._config.upstreams,
            version=SERVER.version,
            guard=self._guard,
            base_environment=environment,
            limits=self._config.limits,
            events=self._events,
            clock=self._clock,
            on_tools=self._upstream_tools.offer,
        )

    def _build_providers(self) -> ProviderRegistry:
        return ProviderRegistry(
            self._config.providers,
            self._config.local,
            default_model=self._config.tools.default_model,
            events=self._events,
            guard=self._guard,
            tasks=self._tasks,
            max_reply_bytes=_longest_reply_bytes(self._config.limits.max_result_bytes),
        )

    def _build_health(self) -> HealthReport:
        parts: dict[str, HealthPart] = {
            "blocked_by": lambda _: self._blocked_by(),
            "port": lambda _: self._websocket.port,
            "http_port": lambda _: self._http.port,
            "connections": lambda _: self._reception.connections.count,
            "sessions": lambda _: len(self._sessions),
            "detached_sessions": lambda _: self._sessions.detached_count,
            "global_inflight": lambda _: len(self._calls.admission.owners()),
            "tool_count": lambda principal: len(self.tools.visible_to(principal)),
            "pools": lambda _: self._calls.admission.statistics().pools,
            "waiting_count": lambda _: self._calls.admission.statistics().waiting_count,
            "loop_lag": lambda _: self._monitor.loop_lag.statistics(),
            "leaked_permits": for_those_who_see_everything(
                lambda: self._monitor.permit_audit.leaked
            ),
            "result_cache": lambda _: self._calls.result_cache.statistics(),
            "durable": lambda _: self._store.durable,
            "store": lambda _: self._store.statistics(),
            "conversations": lambda _: self._conversations.statistics(),
            "default_model": lambda _: self._providers.find_default(),
            "providers": for_those_who_see_everything(self._providers.statistics),
            "upstreams": for_those_who_see_everything(self._upstreams.statistics),
            "unavailable_tools": for_those_who_see_everything(self._upstream_tools.unavailable),
        }
        facts = facts_of(self._config, SERVER.version)
        return HealthReport(self._clock, facts, lambda: self._status, parts)

    def _build_monitor(self) -> HealthMonitor:
        path = self._config.state_dir / HEALTH_FILE
        return HealthMonitor(
            HealthFile(path, lambda: self._health.report(_OPERATOR)),
            self._config.server.health_file_interval_s,
            PermitAudit(self._calls.orphaned_permits, self._events),
            self._clock,
            self._events,
        )

    def _build_call_path(self) -> CallPath:
        return CallPath(
            self._config.limits,
            self._scope_limits(),
            tools=self.tools,
            never_share=self._config.tools.never_share,
            store=self._store,
            tasks=self._tasks,
            clock=self._clock,
            events=self._events,
            health=lambda principal: self._health.report(principal),
            progress_interval_s=self._config.server.progress_interval_s,
            sweeps=[self._expire_conversations],
        )

    async def _expire_conversations(self) -> None:
        ttl_s = self._config.conversations.ttl_s
        await self._conversations.expire(self._clock.wall_s(), ttl_s)

    def _build_certificate(self) -> ServerCertificate | None:
        server = self._config.server
        if server.tls_certificate is None:
            return None
        return ServerCertificate(server.tls_certificate, server.tls_key, self._events)

    def _tls(self) -> SSLContext | None:
        return None if self._certificate is None else self._certificate.context

    def _build_reception(self) -> Reception:
        return Reception(
            self._config,
            SERVER,
            self._calls.router,
            durable=self._store.durable,
            tasks=self._tasks,
            clock=self._clock,
            events=self._events,
        )

    async def _metrics_page(self) -> bytes:
        return await asyncio.to_thread(
            _write_metrics_page, self._metrics.counted(), self._health.report(_OPERATOR)
        )

    def _build_http(self) -> HttpServer:
        routes = health_routes(
            status=lambda: self._status,
            blocked_by=self._blocked_by,
            health=self._health.report,
            metrics=self._metrics_page,
            authenticate=self._tokens.authenticate,
        )
        return HttpServer(self._config.server, routes, self._tls())


def _write_metrics_page(counted: Counted, report: dict[str, Any]) -> bytes:
    from exai.observe.metrics_page import metrics_page  # 40 ms, which only a scrape pays for

    return metrics_page(counted, report)


def _longest_reply_bytes(max_result_bytes: int) -> int:
    """Return how long a model's text may be, so that a result has room for what is said of it."""
    return max_result_bytes - min(_FACTS_BYTES, max_result_bytes // 2)


def build_daemon(
    config: Config,
    *,
    environment: Mapping[str, str],
    events: EventSink,
    store: CallStore | None = None,
    clock: Clock | None = None,
) -> Daemon:
    """Build a daemon from its configuration; nothing is opened yet.

    `environment` is what children may see a safe part of.
    """
    return Daemon(config, environment, events, store or MemoryCallStore(), clock or SystemClock())
