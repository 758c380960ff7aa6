"""The eyes, assembled: what is said of a daemon, and what watches it beside its work.

Knows every part that has something to show; asks, counts and reports, and never acts.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from exai.calls.call_path import CallPath
from exai.connections.reception import Reception
from exai.core.clock import Clock
from exai.core.config import Config
from exai.core.conversation_store import ConversationStore
from exai.core.events import EventSink
from exai.core.identity import Principal
from exai.observe.health_file import HEALTH_FILE, HealthFile
from exai.observe.health_monitor import HealthMonitor
from exai.observe.health_report import (
    HealthPart,
    HealthReport,
    facts_of,
    for_those_who_see_everything,
)
from exai.observe.metrics import Counted, Metrics
from exai.observe.permit_audit import PermitAudit
from exai.observe.readiness import Readiness
from exai.providers.registry import ProviderRegistry
from exai.tools.registry import ToolRegistry
from exai.tools.upstreams import Upstreams

_OPERATOR = Principal("operator")


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What is looked at. `ports` are those of the WebSocket and of HTTP, once they are open."""

    config: Config
    version: str
    readiness: Readiness
    ports: Callable[[], tuple[int, int]]
    calls: CallPath
    reception: Reception
    tools: ToolRegistry
    conversations: ConversationStore
    providers: ProviderRegistry
    upstreams: Upstreams


class Observation:
    """The health report, what keeps it in a file and audits permits, and the metrics."""

    def __init__(
        self, observed: Observed, metrics: Metrics, clock: Clock, events: EventSink
    ) -> None:
        config = observed.config
        self._metrics = metrics
        self.health = HealthReport(
            clock,
            facts_of(config, observed.version),
            lambda: observed.readiness.status,
            self._parts_of(observed),
        )
        self.monitor = HealthMonitor(
            HealthFile(config.state_dir / HEALTH_FILE, self.whole_report),
            config.server.health_file_interval_s,
            PermitAudit(observed.calls.orphaned_permits, events),
            clock,
            events,
        )

    def whole_report(self) -> dict[str, Any]:
        """Return the health report as an operator sees it."""
        return self.health.report(_OPERATOR)

    async def metrics_page(self) -> bytes:
        """Return the text of `/metrics`, written in a thread."""
        counted, report = self._metrics.counted(), self.whole_report()
        return await asyncio.to_thread(_write_metrics_page, counted, report)

    def _parts_of(self, observed: Observed) -> dict[str, HealthPart]:
        calls, reception, admission = observed.calls, observed.reception, observed.calls.admission
        return {
            "blocked_by": lambda _: observed.readiness.blocked_by(),
            "port": lambda _: observed.ports()[0],
            "http_port": lambda _: observed.ports()[1],
            "connections": lambda _: reception.connections.count,
            "sessions": lambda _: len(reception.sessions) + len(reception.mcp_sessions),
            "detached_sessions": lambda _: reception.sessions.detached_count,
            "mcp_sessions": lambda _: len(reception.mcp_sessions),
            "global_inflight": lambda _: len(admission.owners()),
            "tool_count": lambda principal: len(observed.tools.visible_to(principal)),
            "pools": lambda _: admission.statistics().pools,
            "waiting_count": lambda _: admission.statistics().waiting_count,
            "loop_lag": lambda _: self.monitor.loop_lag.statistics(),
            "leaked_permits": for_those_who_see_everything(
                lambda: self.monitor.permit_audit.leaked
            ),
            "result_cache": lambda _: calls.result_cache.statistics(),
            "store": lambda _: calls.ledger.statistics(),
            "conversations": lambda _: observed.conversations.statistics(),
            "default_model": lambda _: observed.providers.find_default(),
            "providers": for_those_who_see_everything(observed.providers.statistics),
            "upstreams": for_those_who_see_everything(observed.upstreams.statistics),
            "own_instances": observed.upstreams.pool.instances_of,
            "unavailable_tools": for_those_who_see_everything(observed.upstreams.tools.unavailable),
        }


def _write_metrics_page(counted: Counted, report: dict[str, Any]) -> bytes:
    from exai.observe.metrics_page import metrics_page  # 40 ms, which only a scrape pays for

    return metrics_page(counted, report)
