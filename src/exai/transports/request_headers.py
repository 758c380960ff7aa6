"""The headers of an HTTP request, decoded once for all who look at them."""

from starlette.types import Scope

from exai.transports.upgrade_rules import Headers

_DECODED = "exai.headers"


def headers_of(scope: Scope) -> Headers:
    """Return a request's headers, in order, as often as they were sent."""
    decoded: Headers | None = scope.get(_DECODED)
    if decoded is None:
        sent = scope["headers"]
        decoded = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in sent]
        scope[_DECODED] = decoded
    return decoded
