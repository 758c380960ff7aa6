"""What goes wrong between us and an LLM service, as `ProviderFailed`: the one translation.

Imports `openai` and its HTTP library: to be imported lazily, and in a thread.
"""

import math
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import anyio
import httpx2
import msgspec
import openai

from exai.core.errors import ProviderFailed
from exai.providers.event_stream import EventTooLarge

FOREIGN_ERRORS = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.StreamError,
    httpx2.InvalidURL,
    ssl.SSLError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    msgspec.DecodeError,
    EventTooLarge,
)
"""Everything that the libraries underneath raise for a service's or a network's fault."""

_BY_ERROR: tuple[tuple[type[BaseException], str, bool], ...] = (
    (httpx2.ConnectTimeout, "does not take the connection", True),
    (httpx2.ConnectError, "cannot be reached", True),
    (httpx2.ProxyError, "cannot be reached through the proxy", True),
    (httpx2.TimeoutException, "has been silent for too long", True),
    (httpx2.UnsupportedProtocol, "has an unusable base_url", False),
    (httpx2.InvalidURL, "has an unusable base_url", False),
    (httpx2.DecodingError, "sent what cannot be decoded", False),
    (msgspec.DecodeError, "sent a malformed event", True),
    (EventTooLarge, "sent an event that is too large", False),
    (openai.OpenAIError, "could not be asked", False),
)
"""Error, what it means, may the same request succeed later; the first match counts."""

_LOST = ("broke the connection off", True)
"""Whatever is not in the table ended a connection that had been there."""

_BY_STATUS: dict[int, tuple[str, bool]] = {
    400: ("refused the request", False),
    401: ("refused the API key", False),
    402: ("wants to be paid", False),
    403: ("refused access", False),
    404: ("knows no such model or address", False),
    408: ("was not asked in time", True),
    409: ("was busy with the same thing", True),
    413: ("finds the prompt too long", False),
    422: ("refused the request", False),
    425: ("wants to be asked later", True),
    429: ("gets too many requests", True),
}

_QUOTA_IS_SPENT = ("insufficient_quota", "exceeded_current_quota_error", "1113")
"""Codes of a 429 that no waiting mends: OpenAI's, Moonshot's, Zhipu's."""

_WORDS_SHOWN = 300
_MAX_BODY_BYTES = 65_536
_MAX_RETRY_AFTER_S = 86_400.0


class _Head(httpx2.AsyncByteStream):
    """The first bytes of a body."""

    def __init__(self, body: httpx2.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left_bytes = _MAX_BODY_BYTES
        async for chunk in self._body:
            yield chunk[:left_bytes]
            left_bytes -= len(chunk)
            if left_bytes <= 0:
                return

    async def aclose(self) -> None:
        await self._body.aclose()


async def cut_body_of_failure(response: httpx2.Response) -> None:
    """Let no more be read of an answer that is no success than its first 64 KiB.

    To be called for each response before its body is read; libraries read a failure's whole.
    """
    if not response.is_success and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Head(response.stream)


def translate(provider: str, error: BaseException, *, secret: str | None) -> ProviderFailed:
    """Return what callers are told of a foreign error; `secret` never shows in it."""
    if isinstance(error, openai.APIStatusError):
        return _from_status(provider, error, secret)
    if isinstance(error, openai.APIConnectionError) and error.__cause__ is not None:
        error = error.__cause__
    meaning, retryable = next(
        ((text, again) for kind, text, again in _BY_ERROR if isinstance(error, kind)), _LOST
    )
    return ProviderFailed(
        f"{provider} {meaning}{_quote(str(error), secret)}", retryable=retryable, provider=provider
    )


def from_error_event(provider: str, error: Any, *, secret: str | None) -> ProviderFailed:
    """Return what callers are told of an error that a service streams instead of text."""
    code = error.get("code") if isinstance(error, dict) else None
    status = {"status": code} if type(code) is int else {}
    return ProviderFailed(
        f"{provider} failed in the middle of its answer{_quote(_message_in(error), secret)}",
        retryable=_meaning_of(status.get("status", 500))[1],
        provider=provider,
        **status,
    )


def _from_status(provider: str, error: openai.APIStatusError, secret: str | None) -> ProviderFailed:
    status = error.status_code
    meaning, retryable = _meaning_of(status)
    if status == 429 and (error.code in _QUOTA_IS_SPENT or error.type in _QUOTA_IS_SPENT):
        meaning, retryable = "has no quota left for this key", False
    return ProviderFailed(
        f"{provider} {meaning} ({status}){_quote(_message_in(error.body), secret)}",
        retryable=retryable,
        retry_after_s=_retry_after_s(error.response.headers) if retryable else None,
        provider=provider,
        status=status,
    )


def _meaning_of(status: int) -> tuple[str, bool]:
    otherwise = ("failed", True) if status >= 500 else ("gave an unexpected answer", False)
    return _BY_STATUS.get(status, otherwise)


def _retry_after_s(headers: httpx2.Headers) -> float | None:
    """Return the seconds of `Retry-After`, a day at most.

    A date counts from the answer's own `Date`, where it has one.
    """
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        until = _date_in(text)
        if until is None:
            return None
        seconds = (until - (_date_in(headers.get("date", "")) or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


def _date_in(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _message_in(body: object) -> str:
    message = body.get("message") if isinstance(body, dict) else body
    return str(message or "")


def _quote(words: str, secret: str | None) -> str:
    """Return a service's own words, made harmless and short, to stand after ours."""
    if secret:
        words = words.replace(secret, "***")
    words = " ".join("".join(c if c.isprintable() else " " for c in words).split())
    if len(words) > _WORDS_SHOWN:
        words = words[: _WORDS_SHOWN - 1] + "…"
    return f": {words}" if words else ""
