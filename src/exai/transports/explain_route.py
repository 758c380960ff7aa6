"""What became of a call, over HTTP, for whoever made it.

Knows the path, the statuses and who may ask; others know the calls.
"""

from collections.abc import Awaitable, Callable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from exai.core.errors import ServiceUnavailable
from exai.core.explanation import Explanation
from exai.core.identity import Principal
from exai.core.requests import RequestId
from exai.transports.json_responses import json_response, unauthorized
from exai.transports.request_headers import headers_of
from exai.transports.upgrade_rules import bearer_token_of

_SHAPE = "expected ?id= with 1 to 128 printable ASCII characters, without space"


def explain_route(
    explain: Callable[[str, str], Awaitable[Explanation]],
    authenticate: Callable[[str | None], Principal | None],
) -> Route:
    """Return `/explain?id=…`, which answers with what `explain` says of a principal's id.

    That is a search: where nothing is found, for whatever reason, it is an empty list.
    """

    async def what_became_of_it(request: Request) -> Response:
        principal = authenticate(bearer_token_of(headers_of(request.scope)))
        if principal is None:
            return unauthorized()
        try:
            (name,) = msgspec.convert(request.query_params.getlist("id"), tuple[RequestId])
        except msgspec.ValidationError:
            return json_response({"error": _SHAPE}, 400)
        try:
            return json_response(await explain(principal.name, name))
        except ServiceUnavailable as down:
            return json_response({"error": str(down)}, 503)

    return Route("/explain", what_became_of_it)
