"""What the HTTP port says beside MCP, assembled: health, calls, MCP servers."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.routing import BaseRoute

from exai.core.explanation import Explanation
from exai.core.identity import Principal
from exai.core.upstream_reports import UpstreamLog
from exai.transports.explain_route import explain_route
from exai.transports.health_routes import health_routes
from exai.transports.upstream_routes import Servers, upstream_routes


class Ready(Protocol):
    """How far the daemon is (`observe.readiness`)."""

    status: Any

    def blocked_by(self) -> dict[str, str]:
        """Name the parts that keep the daemon from taking traffic, with the state of each."""


class Observing(Protocol):
    """What watches the daemon (`observe.observation`)."""

    health: Any

    async def metrics_page(self) -> bytes:
        """Return the text of `/metrics`."""


def daemon_routes(
    readiness: Ready,
    observation: Observing,
    *,
    explain: Callable[[str, str], Awaitable[Explanation]],
    servers: Servers,
    server_logs: Callable[[str, int, int], UpstreamLog],
    authenticate: Callable[[str | None], Principal | None],
) -> list[BaseRoute]:
    """Return all routes but that of MCP; `authenticate` judges a bearer token, or its absence."""
    return [
        *health_routes(
            status=lambda: str(readiness.status),
            blocked_by=readiness.blocked_by,
            health=observation.health.report,
            metrics=observation.metrics_page,
            authenticate=authenticate,
        ),
        explain_route(explain, authenticate),
        *upstream_routes(servers, server_logs, authenticate),
    ]
