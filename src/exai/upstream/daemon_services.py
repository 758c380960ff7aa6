"""What MCP servers get from the daemon, and how the way to one of them is opened with it.

Knows processes and HTTP as carriers; knows nothing of what travels on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from exai.core.clock import Clock
from exai.core.config import LimitsConfig, UpstreamConfig
from exai.core.events import EventSink
from exai.processes.environment import child_environment
from exai.processes.process_guard import ProcessGuard
from exai.upstream.carrier import Carrier
from exai.upstream.catalog_listener import CatalogListener, NobodyHears
from exai.upstream.handshake import Handshake
from exai.upstream.http_client import HttpClient
from exai.upstream.log_levels import LogLevels
from exai.upstream.restart_policy import RestartPolicy
from exai.upstream.server_process import ServerProcess
from exai.upstream.speech import Speech


@dataclass(frozen=True, kw_only=True)
class DaemonServices:
    """What the instances of all servers stand on."""

    guard: ProcessGuard
    http: HttpClient
    handshake: Handshake
    base_environment: Mapping[str, str]
    limits: LimitsConfig
    restart: RestartPolicy
    events: EventSink
    clock: Clock
    listener: CatalogListener = field(default_factory=NobodyHears)
    log_levels: LogLevels = field(default_factory=LogLevels)

    async def open_carrier(self, config: UpstreamConfig, speech: Speech) -> Carrier:
        """Start a server's process, or prepare to reach it by HTTP.

        Raises `OSError`, `CarrierUnusable`.
        """
        max_result_bytes = self.limits.max_result_bytes
        if config.url is not None:
            return await self.http.open_carrier(config.url, config.headers, max_result_bytes)
        assert config.command is not None
        process = await self.guard.spawn(
            config.command,
            config.args,
            env=child_environment(self.base_environment, config.env),
            cwd=config.cwd,
        )
        return ServerProcess(process, speech, max_result_bytes)
