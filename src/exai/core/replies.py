"""What the daemon tells a peer, as typed values. Every protocol encodes from these."""

from typing import Any

import msgspec

from exai.core.errors import ErrorInfo
from exai.core.outcomes import Outcome
from exai.core.tool import ToolSpec


class Reply(msgspec.Struct, frozen=True):
    """Root of all replies."""


class CallAcked(Reply, frozen=True):
    """From here on the call will get exactly one terminal answer."""

    request_id: str
    name: str
    call_id: str
    timeout_s: float
    joined: bool = False


class CallProgressed(Reply, frozen=True):
    """Something happened, or nothing did for a while. `at` is unix seconds.

    `delta` is streamed text that starts at code point `offset` of `attempt`. `log` is what an
    MCP server wrote to its client's log, untouched: `level`, `data` and maybe `logger`.
    """

    request_id: str
    name: str
    at: float
    message: str | None = None
    level: str | None = None
    progress: float | None = None
    total: float | None = None
    delta: str | None = None
    offset: int = 0
    attempt: int = 1
    log: dict[str, Any] | None = None


class CallMeta(msgspec.Struct, frozen=True):
    """How one caller's answer came about; milliseconds as the wire wants them.

    Not `durable` is an answer that a durable ledger could not store.
    """

    call_id: str
    cached: bool = False
    joined: bool = False
    replayed: bool = False
    durable: bool = True
    queue_ms: int = 0
    run_ms: int = 0


class CallAnswered(Reply, frozen=True):
    """The one terminal answer. `meta` is None where nothing had been accepted."""

    request_id: str
    outcome: Outcome
    meta: CallMeta | None = None


class ToolsListed(Reply, frozen=True):
    """The tools that this identity may use."""

    request_id: str | None
    tools: list[ToolSpec]


class ToolsChanged(Reply, frozen=True):
    """The set of tools is another one now: list again."""


class ResourcesChanged(Reply, frozen=True):
    """The resources of MCP servers, or their templates, are others now: list again."""


class PromptsChanged(Reply, frozen=True):
    """The prompts of MCP servers are others now: list again."""


class ResourceUpdated(Reply, frozen=True):
    """A resource that the session watches, or a part of one, has changed: read again."""

    uri: str


class HealthReported(Reply, frozen=True):
    """The same object as the HTTP endpoint's."""

    request_id: str | None
    health: dict[str, Any]


class TokenRotated(Reply, frozen=True):
    """Whether a token was replaced; `error` says why not."""

    request_id: str | None = None
    error: str | None = None


class RequestRefused(Reply, frozen=True):
    """A frame that is no call was refused; the connection stays open."""

    request_id: str | None
    error: ErrorInfo


class GoingAway(Reply, frozen=True):
    """The daemon takes no new calls and will close."""

    reason: str
    reconnect_after_s: float
