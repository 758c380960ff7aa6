"""MCP servers and what they offer, assembled: processes below, what can be called above."""

from collections.abc import Mapping, Sequence
from typing import Any

from exai.core.clock import Clock
from exai.core.config import Config, UpstreamConfig
from exai.core.events import EventSink
from exai.processes.process_guard import ProcessGuard
from exai.tools.catalogs import Announcing, Catalogs
from exai.tools.mcp_methods import McpMethods
from exai.tools.registry import ToolRegistry
from exai.tools.upstream_tools import UpstreamTools
from exai.upstream.names import namespaces_of
from exai.upstream.pool import UpstreamPool
from exai.upstream.server import UpstreamServer


class McpServers:
    """`pool` runs the servers; `tools` offers what they list as such, `catalogs` all else."""

    def __init__(
        self,
        config: Config,
        registry: ToolRegistry,
        *,
        version: str,
        guard: ProcessGuard,
        environment: Mapping[str, str],
        events: EventSink,
        clock: Clock,
        announcing: Announcing,
    ) -> None:
        self.catalogs = Catalogs(namespaces_of(config.upstreams), events, announcing)
        self.pool = UpstreamPool(
            config.upstreams,
            version=version,
            guard=guard,
            base_environment=environment,
            limits=config.limits,
            events=events,
            clock=clock,
            on_tools=self._offer,
            news=self.catalogs,
        )
        self.tools = UpstreamTools(registry, self.pool.servers, events)
        registry.offer_methods(McpMethods(self.catalogs, self.pool, registry))

    def expect(self, configs: Mapping[str, UpstreamConfig]) -> None:
        """Let these be the servers that offer anything, in this order; others have nothing."""
        self.catalogs.expect(namespaces_of(configs))
        self.tools.expect(configs)

    async def _offer(self, server: UpstreamServer, listing: Sequence[dict[str, Any]]) -> None:
        await self.tools.offer(server, listing)
