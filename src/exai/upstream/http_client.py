"""The one HTTP client of all MCP servers, made when the first is reached that way.

Its parts take a second to import, so that happens in a thread. Owns the exchanges under way,
which may outlive the lives that began them.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from exai.core.addresses import LOOPBACK_URLS
from exai.core.slow_imports import importing_alone
from exai.upstream.carrier import Carrier

if TYPE_CHECKING:
    import httpx2

_KEEPALIVE_S = 4.0
"""Shorter than the 5 s after which uvicorn and Node close a connection that rests."""


class HttpClient:
    """Opens ways to servers; as a context, it ends all that is under way with itself."""

    def __init__(self, version: str) -> None:
        self._user_agent = f"exai/{version}"
        self._loading = asyncio.Lock()
        self._client: httpx2.AsyncClient | None = None
        self._group = asyncio.TaskGroup()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await self._group.__aexit__(kind, error, traceback)
        if self._client is not None:
            await self._client.aclose()

    async def open_carrier(
        self, url: str, headers: Mapping[str, str], max_message_bytes: int
    ) -> Carrier:
        """Return the way to a server, for one life. Raises `CarrierUnusable`."""
        async with self._loading:
            if self._client is None:
                self._client = await asyncio.to_thread(_load)
        from exai.upstream.http_carrier import HttpCarrier  # costs nothing once loaded
        from exai.upstream.http_headers import HttpHeaders

        return HttpCarrier(
            url,
            HttpHeaders(headers, url, self._user_agent),
            client=self._client,
            start=self._start,
            max_message_bytes=max_message_bytes,
        )

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._group.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _load() -> "httpx2.AsyncClient":
    """Import all that is heavy, and make the client, which keeps no cookies.

    The machine's proxy settings hold, but never for loopback. How many connections there
    are is for the permits to say, not for the pool.
    """
    with importing_alone():
        import anyio
        import httpx2

        import exai.upstream.http_carrier  # noqa: F401

    anyio.run(anyio.sleep, 0)  # imports its backend: 100 ms that no later loop pays for
    return httpx2.AsyncClient(
        verify=httpx2.create_ssl_context(),
        limits=httpx2.Limits(
            max_connections=None, max_keepalive_connections=32, keepalive_expiry=_KEEPALIVE_S
        ),
        mounts=dict.fromkeys(LOOPBACK_URLS),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )
