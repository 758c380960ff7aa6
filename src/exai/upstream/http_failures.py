"""What goes wrong between us and an MCP server behind HTTP, in words: the one translation.

Imports the HTTP library: to be imported lazily, and in a thread.
"""

import math
import ssl
from http import HTTPStatus

import anyio
import httpx2

from exai.core.foreign_text import escaped
from exai.upstream.json_rpc import StatusAnswer

UNREACHABLE = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError)
"""Raised before anything of a request has been sent."""

FOREIGN_ERRORS = (
    httpx2.HTTPError,
    httpx2.StreamError,
    httpx2.InvalidURL,
    ssl.SSLError,
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
)
"""All that the libraries underneath raise for a server's or a network's fault."""

_REFUSALS: dict[int, tuple[str, bool]] = {
    400: ("finds the request bad", False),
    401: ("does not accept our credentials", False),
    402: ("wants to be paid", False),
    403: ("refuses access", False),
    404: ("serves nothing at its url", False),
    405: ("takes no such request at its url", False),
    406: ("has no answer that we understand", False),
    408: ("was not asked in time", True),
    410: ("serves nothing at its url any more", False),
    413: ("finds the request too large", False),
    415: ("does not take JSON", False),
    421: ("is not the one for its url", False),
    425: ("wants to be asked later", True),
    429: ("gets too many requests", True),
    431: ("finds the headers too large", False),
}
"""Status, what it means, may the same request succeed later. Nothing of it was done."""

_FAILURES = {
    502: "is not there, says what stands before it",
    503: "cannot answer now",
    504: "takes too long, says what stands before it",
}
"""Statuses that do not tell whether anything was done."""

_WORDS_SHOWN = 200
_MAX_RETRY_AFTER_S = 86_400.0


def reason_unreachable(error: BaseException) -> str:
    """Return why there is no connection."""
    if isinstance(error, httpx2.ConnectTimeout):
        return "cannot be reached: it does not take the connection"
    where = " through the proxy" if isinstance(error, httpx2.ProxyError) else ""
    return f"cannot be reached{where}: {_cause_of(error)}"


def status_answer(status: int, words: str, retry_after: str | None) -> StatusAnswer:
    """Return the fault that a status is; `words` are the server's own, harmless ones."""
    meaning, retryable = _REFUSALS.get(status, ("refuses the request", False))
    if status >= 500:
        meaning, retryable = _FAILURES.get(status, "failed"), False
    told = f": {words}" if words else ""
    return StatusAnswer(
        f"{meaning} ({_phrase(status)}){told}",
        status=status,
        may_have_run=status >= 500,
        retryable=retryable,
        retry_after_s=_seconds(retry_after) if retryable else None,
    )


def shown_words(body: bytes | bytearray, content_type: str) -> str:
    """Return what may be shown of the body of a failure: short, and nothing of a web page."""
    if "html" in content_type:
        return ""
    words = " ".join(escaped(bytes(body[:2000]).decode(errors="replace")).split())
    return words if len(words) <= _WORDS_SHOWN else words[: _WORDS_SHOWN - 1] + "…"


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _cause_of(error: BaseException) -> str:
    """Return the words of the system, which the libraries wrap in their own."""
    innermost: BaseException | None = error
    while innermost is not None:
        error = innermost
        if isinstance(error, ssl.SSLError) and error.reason:
            return getattr(error, "verify_message", "") or error.reason.lower().replace("_", " ")
        if isinstance(error, BaseExceptionGroup):
            innermost = error.exceptions[0]
        else:
            innermost = error.__cause__ or error.__context__
    if isinstance(error, OSError) and error.strerror:
        return escaped(error.strerror)
    return escaped(str(error)) or "no connection"


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return min(max(0.0, seconds), _MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None
