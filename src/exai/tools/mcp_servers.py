"""MCP servers and what they offer, assembled: processes below, tools in the registry above."""

from collections.abc import Mapping, Sequence
from typing import Any

from exai.core.clock import Clock
from exai.core.config import Config
from exai.core.events import EventSink
from exai.processes.process_guard import ProcessGuard
from exai.tools.registry import ToolRegistry
from exai.tools.upstream_tools import UpstreamTools
from exai.upstream.pool import UpstreamPool
from exai.upstream.server import UpstreamServer


class McpServers:
    """`pool` runs the servers, `tools` offers what they list."""

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
    ) -> None:
        self.pool = UpstreamPool(
            config.upstreams,
            version=version,
            guard=guard,
            base_environment=environment,
            limits=config.limits,
            events=events,
            clock=clock,
            on_tools=self._offer,
        )
        self.tools = UpstreamTools(registry, self.pool.servers, events)

    async def _offer(self, server: UpstreamServer, listing: Sequence[dict[str, Any]]) -> None:
        await self.tools.offer(server, listing)
