"""One chat over the `openai` SDK: a stream of events in, a whole reply or an error out.

The SDK speaks HTTP for us (address, key, error bodies); its events are read here, with
typed structs, because its own models cost the loop 200 µs each, two hundred times as much.
Imports `openai`: to be imported lazily, and in a thread.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import httpx2
import msgspec
import openai
from openai.resources.chat.completions import AsyncCompletions
from openai.types.chat import ChatCompletionMessageParam

from exai.core.addresses import LOOPBACK_URLS
from exai.core.errors import ProviderFailed, ResultTooLarge
from exai.core.outcomes import Usage
from exai.core.tool import ToolRun
from exai.providers.event_stream import EventStreamDecoder
from exai.providers.provider import ChatReply, ChatRequest
from exai.providers.provider_failures import (
    FOREIGN_ERRORS,
    cut_body_of_failure,
    from_error_event,
    translate,
)

_CONNECT_TIMEOUT_S = 10.0
_DRAIN_TIMEOUT_S = 0.1
_MAX_EVENT_BYTES = 1_048_576
_NO_KEY = "none"
_QUOTES_BYTES = 2
_TLS = httpx2.create_ssl_context()
"""One for the process: it takes 50 ms to make, on the thread that imports this."""
_LATE_IMPORTS = (anyio.connect_tcp, anyio.create_task_group, anyio.fail_after)
"""anyio imports these when they are first named: here, where no loop has to wait for it."""


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    model: str | None = None
    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decode_event = msgspec.json.Decoder(_Event).decode


def open_http_client() -> httpx2.AsyncClient:
    """Return the HTTP client that all services share; to be called in a thread.

    The machine's proxy settings hold, but never for loopback. How many connections there
    are is for the permits to say, not for the pool.
    """
    anyio.run(anyio.sleep, 0)  # imports its backend: 100 ms that no later loop pays for
    return httpx2.AsyncClient(
        verify=_TLS,
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
        mounts=dict.fromkeys(LOOPBACK_URLS),
        event_hooks={"response": [cut_body_of_failure]},
    )


class OpenAIChat:
    """The chat endpoint of one service."""

    def __init__(
        self,
        http_client: httpx2.AsyncClient,
        *,
        provider: str,
        base_url: str,
        api_key: str | None,
        idle_timeout_s: float | None,
        max_reply_bytes: int,
    ) -> None:
        self._provider = provider
        self._api_key = api_key
        self._max_reply_bytes = max_reply_bytes
        self._completions = AsyncCompletions(
            _client(http_client, base_url, api_key or _NO_KEY, idle_timeout_s)
        )

    async def complete(self, request: ChatRequest, run: ToolRun) -> ChatReply:
        """Ask, stream through `run`, return the whole reply.

        Raises `ProviderFailed` and `ResultTooLarge`. Cancelling closes the HTTP stream.
        """
        asked = self._completions.with_streaming_response.create(
            model=request.model,
            messages=cast(list[ChatCompletionMessageParam], msgspec.to_builtins(request.messages)),
            temperature=openai.omit if request.temperature is None else request.temperature,
            stream=True,
            stream_options={"include_usage": True},
        )
        reply = _ReplyBuilder(self._provider, request.model, self._max_reply_bytes)
        try:
            async with asked as response:
                self._require_stream(response.headers)
                await self._read(response.iter_bytes(), reply, run)
        except FOREIGN_ERRORS as error:
            if not reply.is_whole:
                raise translate(self._provider, error, secret=self._api_key) from error
        return reply.build()

    def _require_stream(self, headers: httpx2.Headers) -> None:
        kind = headers.get("content-type", "nothing")
        if not kind.lower().startswith("text/event-stream"):
            raise ProviderFailed(
                f"{self._provider} answered with {kind[:64]!r}, not with a stream of events",
                provider=self._provider,
            )

    async def _read(
        self, chunks: AsyncIterator[bytes], reply: "_ReplyBuilder", run: ToolRun
    ) -> None:
        decoder = EventStreamDecoder(_MAX_EVENT_BYTES)
        async for chunk in chunks:
            for data in decoder.feed(chunk):
                if data == b"[DONE]":
                    await _read_to_end(chunks)
                    return
                event = _decode_event(data)
                if event.error and not reply.is_whole:
                    raise from_error_event(self._provider, event.error, secret=self._api_key)
                if delta := reply.add(event):
                    run.stream(delta)


class _ReplyBuilder:
    """What a stream has said so far, and whether that is an answer."""

    def __init__(self, provider: str, model: str, max_bytes: int) -> None:
        self._provider = provider
        self._model = model
        self._max_bytes = max_bytes
        self._text = io.StringIO()
        self._size_bytes = 0
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    @property
    def is_whole(self) -> bool:
        """Has the service said that its answer ends here?"""
        return self._finish_reason is not None

    def add(self, event: _Event) -> str:
        """Take one event in and return the text that it adds. Raises `ResultTooLarge`."""
        self._model = event.model or self._model
        if event.usage is not None:
            self._usage = _usage_in(event.usage) or self._usage
        if not event.choices:
            return ""
        choice = event.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        text = (choice.delta and choice.delta.content) or ""
        self._size_bytes += len(msgspec.json.encode(text)) - _QUOTES_BYTES  # as it will be kept
        if self._size_bytes > self._max_bytes:
            raise ResultTooLarge(
                f"the answer of {self._provider} is over {self._max_bytes:,} bytes",
                max_bytes=self._max_bytes,
            )
        self._text.write(text)
        return text

    def build(self) -> ChatReply:
        """Return the reply. Raises `ProviderFailed` where there is none, or only a part."""
        text = self._text.getvalue()
        if self._finish_reason is None:
            raise ProviderFailed(
                f"{self._provider} ended its answer in the middle",
                retryable=True,
                provider=self._provider,
            )
        if not text.strip():
            raise ProviderFailed(
                f"{self._provider} gave an empty answer (finish reason: {self._finish_reason})",
                retryable=self._finish_reason == "stop",
                provider=self._provider,
            )
        return ChatReply(
            text=text, model=self._model, finish_reason=self._finish_reason, usage=self._usage
        )


def _usage_in(counts: Any) -> Usage | None:
    """Read the counts of tokens; odd ones are no reason to lose an answer."""
    try:
        return Usage(int(counts["prompt_tokens"]), int(counts["completion_tokens"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _client(
    http_client: httpx2.AsyncClient, base_url: str, api_key: str, idle_timeout_s: float | None
) -> openai.AsyncOpenAI:
    """Return a client that knows only what it is given.

    The SDK would take what is left out from `OPENAI_…` variables, which are meant for
    another service, and must not reach this one.
    """
    client = openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key,
        default_headers={"Authorization": f"Bearer {api_key}"},
        timeout=httpx2.Timeout(idle_timeout_s, connect=_CONNECT_TIMEOUT_S, pool=None),
        max_retries=0,
        http_client=http_client,
    )
    client.organization = client.project = client.admin_api_key = None
    return client


async def _read_to_end(chunks: AsyncIterator[bytes]) -> None:
    """Read what follows the last event, usually nothing, so that the connection can stay."""
    try:
        async with asyncio.timeout(_DRAIN_TIMEOUT_S):
            async for _ in chunks:
                pass
    except TimeoutError:
        pass  # the service keeps the stream open: this connection is closed instead
