"""MCP servers over HTTP, for their operator: how they fare, one anew, what they said, a reload.

Knows paths, statuses and who may do what; others know the servers.
"""

from collections.abc import Awaitable, Callable
from difflib import get_close_matches
from typing import Annotated, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from exai.core.errors import ServiceUnavailable
from exai.core.identity import Principal
from exai.core.upstream_reports import ReloadReport, UpstreamLog, UpstreamReport, UpstreamReports
from exai.transports.json_responses import json_response, unauthorized
from exai.transports.request_headers import headers_of
from exai.transports.upgrade_rules import bearer_token_of

_Endpoint = Callable[[Request, Principal], Awaitable[Response]]
_Handler = Callable[[Request], Awaitable[Response]]
_SHOWN_LENGTH = 64
_NO_ADMIN = "the principal {name} is no admin (principals.{name}.admin)"


class _Tail(msgspec.Struct, frozen=True):
    n: Annotated[int, msgspec.Meta(ge=0)] = 100
    after: Annotated[int, msgspec.Meta(ge=0)] = 0


class Servers(Protocol):
    """What can be asked of the servers (`tools.upstream_control`)."""

    def knows(self, name: str, principal: Principal) -> bool:
        """Tell whether there is such a server that a principal may know of."""

    def reports(self, principal: Principal) -> UpstreamReports:
        """Return how the servers fare."""

    async def restart(self, name: str, principal: Principal) -> UpstreamReport:
        """Restart one."""

    async def reload(self, principal: Principal) -> ReloadReport:
        """Read the configuration again."""


def upstream_routes(
    servers: Servers,
    tail: Callable[[str, int, int], UpstreamLog],
    authenticate: Callable[[str | None], Principal | None],
) -> list[BaseRoute]:
    """Return `/upstreams` and what is below it, and `/reload`.

    Whoever may use a tool of a server may know how it fares; everything else is for admins,
    what a server said as well, since it may be of everybody's calls.
    """
    door = _Door(servers, tail, authenticate)
    for_all, for_admins = door.for_all, door.for_admins
    return [
        Route("/upstreams", for_all(door.reports)),
        Route("/upstreams/{name:path}/logs", for_admins(door.logs)),
        Route("/upstreams/{name:path}/restart", for_admins(door.restart), methods=["POST"]),
        Route("/reload", for_admins(door.reload), methods=["POST"]),
    ]


class _Door:
    """Each question with its answer; who may ask is seen to before it is asked."""

    def __init__(
        self,
        servers: Servers,
        tail: Callable[[str, int, int], UpstreamLog],
        authenticate: Callable[[str | None], Principal | None],
    ) -> None:
        self._servers = servers
        self._tail = tail
        self._authenticate = authenticate

    def for_all(self, endpoint: _Endpoint) -> _Handler:
        """Return what answers everybody with a token."""

        async def answer(request: Request) -> Response:
            principal = self._authenticate(bearer_token_of(headers_of(request.scope)))
            if principal is None:
                return unauthorized()
            name = request.path_params.get("name")
            if name is not None and not self._servers.knows(name, principal):
                return json_response({"error": self._unknown(name, principal)}, 404)
            try:
                return await endpoint(request, principal)
            except ServiceUnavailable as down:
                return json_response({"error": str(down)}, 503)

        return answer

    def for_admins(self, endpoint: _Endpoint) -> _Handler:
        """Return what answers admins, and tells others what they lack."""

        async def answer(request: Request, principal: Principal) -> Response:
            if principal.admin:
                return await endpoint(request, principal)
            return json_response({"error": _NO_ADMIN.format(name=principal.name)}, 403)

        return self.for_all(answer)

    def _unknown(self, name: str, principal: Principal) -> str:
        known = [report.name for report in self._servers.reports(principal).upstreams]
        closest = get_close_matches(name[:_SHOWN_LENGTH], known, n=1)
        hint = f"; did you mean {closest[0]}?" if closest else ""
        return f"there is no MCP server {name[:_SHOWN_LENGTH]}{hint}"

    async def reports(self, request: Request, principal: Principal) -> Response:
        """Say how the servers fare."""
        return json_response(self._servers.reports(principal))

    async def restart(self, request: Request, principal: Principal) -> Response:
        """Have one restarted, and say how it fares then."""
        return json_response(await self._servers.restart(request.path_params["name"], principal))

    async def logs(self, request: Request, principal: Principal) -> Response:
        """Say what one said."""
        try:
            asked = msgspec.convert(dict(request.query_params), _Tail, strict=False)
        except msgspec.ValidationError as misfit:
            return json_response({"error": str(misfit)}, 400)
        return json_response(self._tail(request.path_params["name"], asked.n, asked.after))

    async def reload(self, request: Request, principal: Principal) -> Response:
        """Have the configuration read again, and say what it changed or what is wrong with it."""
        report = await self._servers.reload(principal)
        return json_response(report, 422 if report.problems else 200)
