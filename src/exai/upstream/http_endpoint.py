"""One URL of an MCP server: what is sent there goes nowhere else.

Imports the HTTP library: to be imported lazily, and in a thread.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2

from exai.core.http_syntax import is_http_url
from exai.upstream.carrier import CarrierUnusable
from exai.upstream.http_redirects import request_within_origin

_CONNECT_TIMEOUT_S = 10.0
_SILENCE_S = 300.0
_MAX_REDIRECTS = 3
_NO_URL = "its url is none of http:// or https://"

CALL_TIMEOUTS = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
"""A call's own deadline ends what takes long."""
LISTENING_TIMEOUTS = httpx2.Timeout(_SILENCE_S, connect=_CONNECT_TIMEOUT_S, pool=None)
"""A connection that is dead without having been closed is noticed at last."""


class HttpEndpoint:
    """A URL, and the client that all servers share."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        """Raise `CarrierUnusable` where nothing can be sent there."""
        self._client = client
        if not is_http_url(url):
            raise CarrierUnusable(_NO_URL)
        try:
            self._url = httpx2.URL(url)
        except httpx2.InvalidURL:
            raise CarrierUnusable(_NO_URL) from None

    @asynccontextmanager
    async def sending(
        self,
        method: str,
        headers: dict[str, str],
        content: bytes | None = None,
        timeouts: httpx2.Timeout = CALL_TIMEOUTS,
    ) -> AsyncIterator[httpx2.Response]:
        """Send a request, be redirected within its origin, and let the response be read."""
        request: httpx2.Request | None = self._client.build_request(
            method, self._url, headers=headers, content=content, timeout=timeouts
        )
        for _ in range(_MAX_REDIRECTS + 1):
            assert request is not None
            response = await self._client.send(request, stream=True, follow_redirects=False)
            if (request := request_within_origin(response)) is None:
                break
            await response.aclose()
        try:
            yield response
        finally:
            await response.aclose()
