"""What the HTTP port says of the daemon: alive, ready, the whole picture, and its numbers.

Knows paths, statuses and who may see what; asks others how the daemon fares.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from exai.core.identity import Principal
from exai.transports.json_responses import json_response, unauthorized
from exai.transports.request_headers import headers_of
from exai.transports.upgrade_rules import bearer_token_of

_METRICS_TYPE = "text/plain; version=0.0.4"


def health_routes(
    *,
    status: Callable[[], str],
    blocked_by: Callable[[], dict[str, str]],
    health: Callable[[Principal], dict[str, Any]],
    metrics: Callable[[], Awaitable[bytes]],
    authenticate: Callable[[str | None], Principal | None],
) -> list[BaseRoute]:
    """Return `/livez`, `/readyz`, `/health` and `/metrics`.

    `blocked_by` names the parts that keep the daemon from taking traffic, with the state of each.
    `authenticate` judges the bearer token of a request, or its absence; without a principal
    only `status` is told, and to whom something is hidden no metrics. Load is not ill health:
    `/health` is 200 whenever the daemon can answer.
    """

    async def livez(request: Request) -> Response:
        return json_response({"status": "ok"})

    async def readyz(request: Request) -> Response:
        parts = blocked_by()
        body = {"status": "not ready" if parts else "ok", "blocked_by": parts}
        return json_response(body, 503 if parts else 200)

    async def whole_health(request: Request) -> Response:
        principal = authenticate(bearer_token_of(headers_of(request.scope)))
        return json_response({"status": status()} if principal is None else health(principal))

    async def all_metrics(request: Request) -> Response:
        principal = authenticate(bearer_token_of(headers_of(request.scope)))
        if principal is None:
            return unauthorized()
        if not principal.sees_everything:
            return json_response({"error": "forbidden"}, 403)
        return Response(await metrics(), media_type=_METRICS_TYPE)

    return [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/health", whole_health),
        Route("/metrics", all_metrics),
    ]
