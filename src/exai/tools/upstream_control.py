"""Looking after MCP servers while the daemon runs: how they fare, one anew, another configuration.

Knows what has to follow when servers come and go: their permits, then themselves, then what
they offer. Does not know where the configuration stands, nor who may ask.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress

from exai.core.config import Config
from exai.core.errors import ServiceUnavailable
from exai.core.events import EventSink, UpstreamRestartAsked, UpstreamsReloaded
from exai.core.identity import Principal
from exai.core.tool import upstream_scope
from exai.core.upstream_reports import ConfigRead, ReloadReport, UpstreamReport, UpstreamReports
from exai.tools.upstreams import Upstreams
from exai.upstream.shown_url import shown_url

ReadConfig = Callable[[], ConfigRead]
Relimit = Callable[[Mapping[str, int], Iterable[str]], None]
"""Says how many may work in which scopes from now on, and which scopes nobody comes to again."""

RESTART_WAIT_S = 30.0
"""How long whoever asks for a restart waits to hear what came of it."""


class UpstreamControl:
    """The servers of one daemon, in the hands of its operator."""

    def __init__(
        self,
        upstreams: Upstreams,
        relimit: Relimit,
        read_config: ReadConfig,
        events: EventSink,
    ) -> None:
        self._upstreams = upstreams
        self._pool = upstreams.pool
        self._tools = upstreams.tools
        self._relimit = relimit
        self._read_config = read_config
        self._events = events
        self._reloading = asyncio.Lock()

    def knows(self, name: str, principal: Principal) -> bool:
        """Tell whether there is a server of this name that a principal may know of."""
        if name not in self._pool.servers:
            return False
        return principal.sees_everything or bool(self._visible_tools(name, principal))

    def reports(self, principal: Principal) -> UpstreamReports:
        """Return how those servers fare that a principal may know of."""
        names = [name for name in self._pool.servers if self.knows(name, principal)]
        return UpstreamReports([self.report(name, principal) for name in names])

    def report(self, name: str, principal: Principal) -> UpstreamReport:
        """Return how one server fares, as a principal may see it."""
        config, numbers = self._pool.servers[name].config, self._pool.statistics_of(name)
        unavailable = self._tools.unavailable().get(name, {}) if principal.sees_everything else {}
        return UpstreamReport(
            name=name,
            kind="stdio" if config.command else "http",
            instance=config.instance,
            state=numbers.state,
            command=config.command if principal.sees_everything else None,
            url=shown_url(config.url) if config.url and principal.sees_everything else None,
            pid=numbers.pid,
            protocol_version=numbers.protocol_version,
            tools=self._visible_tools(name, principal),
            unavailable=unavailable,
            running_count=numbers.running_count,
            start_count=numbers.start_count,
            instance_count=numbers.instance_count,
            retry_in_s=numbers.retry_in_s,
            last_end=numbers.last_end,
        )

    async def restart(self, name: str, principal: Principal) -> UpstreamReport:
        """End a server, and return how the one that follows fares once it has started or failed.

        Its calls end as they would if it had crashed. Raises `ServiceUnavailable`.
        """
        self._require_open()
        self._events.emit(UpstreamRestartAsked(name, principal.name))
        server = self._pool.restart(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(RESTART_WAIT_S):
                await server.wait_first_start()
        if name not in self._pool.servers:
            raise ServiceUnavailable(f"{name} was removed meanwhile")
        return self.report(name, principal)

    async def reload(self, principal: Principal) -> ReloadReport:
        """Read the configuration again, and let its servers be those that run.

        A configuration with faults changes nothing. Raises `ServiceUnavailable`.
        """
        async with self._reloading:
            read = await asyncio.to_thread(self._read_config)
            self._require_open()
            if read.problems:
                return ReloadReport(problems=read.problems, warnings=read.warnings)
            return await self._apply(read, principal)

    async def _apply(self, read: ConfigRead, principal: Principal) -> ReloadReport:
        wanted = {name: each for name, each in read.upstreams.items() if not each.disabled}
        gone = self._pool.servers.keys() - wanted.keys()
        self._relimit(
            {upstream_scope(name): each.max_inflight for name, each in wanted.items()},
            [upstream_scope(name) for name in gone],
        )
        changes = self._upstreams.apply(wanted)
        self._events.emit(
            UpstreamsReloaded(
                principal=principal.name,
                added=len(changes.added),
                removed=len(changes.removed),
                restarted=len(changes.restarted),
                adjusted=len(changes.adjusted),
            )
        )
        for name in changes.adjusted:
            await self._tools.offer_anew(name)
        return ReloadReport(
            added=changes.added,
            removed=changes.removed,
            restarted=changes.restarted,
            adjusted=changes.adjusted,
            for_a_restart=read.for_a_restart,
            warnings=read.warnings,
        )

    def _require_open(self) -> None:
        if not self._pool.is_open:
            raise ServiceUnavailable("the daemon starts, or it stops; try again")

    def _visible_tools(self, name: str, principal: Principal) -> list[str]:
        return [tool for tool in self._tools.offered_by(name) if principal.may_use(tool)]


def unchanged(config: Config) -> ConfigRead:
    """Return what a daemon reads that was given its configuration once and for all."""
    return ConfigRead(upstreams=config.upstreams, problems=[], warnings=[], for_a_restart=[])
