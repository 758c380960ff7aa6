"""What the HTTP port serves beside MCP, assembled: how the daemon fares, its calls, its servers."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.routing import BaseRoute

from exai.core.explanation import Explanation
from exai.core.identity import Principal
from exai.core.upstream_reports import UpstreamLog
from exai.transports.explain_route import explain_route
from exai.transports.health_routes import health_routes
from exai.transports.upstream_routes import Servers, upstream_routes


class Observing(Protocol):
    """Whoever knows how the daemon fares (`observe.observation`)."""

    def status(self) -> str:
        """Return what the daemon says of itself."""

    def blocked_by(self) -> dict[str, str]:
        """Return what keeps it from taking traffic."""

    def report(self, principal: Principal) -> dict[str, Any]:
        """Return the health report as a principal may see it."""

    async def metrics_page(self) -> bytes:
        """Return the metrics as text."""


def daemon_routes(
    observing: Observing,
    explain: Callable[[str, str], Awaitable[Explanation]],
    servers: Servers,
    tail: Callable[[str, int, int], UpstreamLog],
    authenticate: Callable[[str | None], Principal | None],
) -> list[BaseRoute]:
    """Return every route for those whom `authenticate` knows, and those for everybody."""
    return [
        *health_routes(
            status=observing.status,
            blocked_by=observing.blocked_by,
            health=observing.report,
            metrics=observing.metrics_page,
            authenticate=authenticate,
        ),
        explain_route(explain, authenticate),
        *upstream_routes(servers, tail, authenticate),
    ]
