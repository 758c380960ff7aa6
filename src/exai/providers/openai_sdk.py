"""The `openai` package, loaded on first use and off the loop: 1 s and 40 MiB to import.

Owns the one HTTP client of all services.
"""

import asyncio
from typing import TYPE_CHECKING

from exai.core.config import Secret

if TYPE_CHECKING:
    import httpx2

    from exai.providers.openai_chat import OpenAIChat


class OpenAISdk:
    """Makes chats; whoever asks first waits for the import."""

    def __init__(self, max_reply_bytes: int) -> None:
        self._max_reply_bytes = max_reply_bytes
        self._loading = asyncio.Lock()
        self._http_client: httpx2.AsyncClient | None = None

    async def load(self) -> "httpx2.AsyncClient":
        """Import the package and return the HTTP client."""
        async with self._loading:
            if self._http_client is None:
                self._http_client = await asyncio.to_thread(_load)
            return self._http_client

    async def open_chat(
        self, provider: str, base_url: str, api_key: Secret | None, idle_timeout_s: float | None
    ) -> "OpenAIChat":
        """Return the chat endpoint of a service."""
        http_client = await self.load()
        from exai.providers.openai_chat import OpenAIChat  # costs nothing once loaded

        return OpenAIChat(
            http_client,
            provider=provider,
            base_url=base_url,
            api_key=api_key.reveal() if api_key else None,
            idle_timeout_s=idle_timeout_s,
            max_reply_bytes=self._max_reply_bytes,
        )

    async def close(self) -> None:
        """Close every connection to every service."""
        if self._http_client is not None:
            await self._http_client.aclose()


def _load() -> "httpx2.AsyncClient":
    from exai.providers.openai_chat import open_http_client  # the heavy import, in a thread

    return open_http_client()
