"""MCP servers and what they offer, assembled: processes below, tools in the registry above."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from exai.core.clock import Clock
from exai.core.config import Config, UpstreamConfig
from exai.core.events import EventSink
from exai.processes.process_guard import ProcessGuard
from exai.tools.catalogs import Announcing, Catalogs
from exai.tools.mcp_methods import McpMethods
from exai.tools.registry import ToolRegistry
from exai.tools.upstream_tools import UpstreamTools
from exai.upstream.names import namespaces_of
from exai.upstream.pool import Changes, UpstreamPool
from exai.upstream.server import UpstreamServer, UpstreamStatistics


class OfferStatistics(UpstreamStatistics, frozen=True, kw_only=True):
    """How one server fares, and how many of its `tool_count` tools are offered."""

    offered_count: int


class Upstreams:
    """`pool` runs the servers, `tools` offers what they list; catalogs have the rest."""

    def __init__(
        self,
        config: Config,
        registry: ToolRegistry,
        announcing: Announcing,
        *,
        version: str,
        guard: ProcessGuard,
        environment: Mapping[str, str],
        events: EventSink,
        clock: Clock,
    ) -> None:
        self._catalogs = Catalogs(namespaces_of(config.upstreams), events, announcing)
        self.pool = UpstreamPool(
            config.upstreams,
            version=version,
            guard=guard,
            base_environment=environment,
            limits=config.limits,
            events=events,
            clock=clock,
            on_tools=self._offer,
            listener=self._catalogs,
        )
        self.tools = UpstreamTools(registry, self.pool.servers, events)
        registry.offer_methods(McpMethods(self._catalogs, self.pool, registry))

    def apply(self, configs: Mapping[str, UpstreamConfig]) -> Changes:
        """Let these be the servers from now on; what those offered that are gone is gone.

        Those that are offered in another way are still to be offered anew (`tools`).
        """
        changes = self.pool.apply(configs)
        self.tools.expect(configs)
        self._catalogs.expect(namespaces_of(configs))
        return changes

    def statistics(self) -> list[OfferStatistics]:
        """Return how each server fares, and what is offered of it."""
        return [
            OfferStatistics(
                **msgspec.structs.asdict(numbers),
                offered_count=len(self.tools.offered_by(numbers.upstream)),
            )
            for numbers in self.pool.statistics()
        ]

    async def _offer(self, server: UpstreamServer, listing: Sequence[dict[str, Any]]) -> None:
        await self.tools.offer(server, listing)
