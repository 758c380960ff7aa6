"""The contract of everything callable: what a tool is, and what a run hands it.

Built-in tools, model tools and the tools of MCP servers all fulfil `Tool`; the call path
knows nothing else of them.
"""

from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, get_args

import msgspec

from exai.core.client_side import ClientSide
from exai.core.identity import Principal
from exai.core.outcomes import Completed

OWN_SOURCE = "exai"
"""Who offers the daemon's own tools; no MCP server is called so."""

Share = Literal["none", "session", "principal", "all"]
LogLevel = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
LOG_LEVELS: tuple[LogLevel, ...] = get_args(LogLevel)
"""From the most verbose to the gravest."""


class SharingPolicy(msgspec.Struct, frozen=True):
    """Whose equal calls may join, how long a success may be served again, may it run twice."""

    share: Share = "none"
    cache_ttl_s: float = 0.0
    idempotent: bool = False
    read_only: bool = False


_REACH: tuple[Share, ...] = ("none", "session", "principal", "all")
WIDEST_SHARE: dict[str, Share] = {"shared": "all", "principal": "principal", "session": "session"}
"""Among whom results may be shared at most, by who shares an MCP server's instance."""


def is_wider(share: Share, bound: Share) -> bool:
    """Tell whether `share` lets more callers have the same result than `bound` does."""
    return _REACH.index(share) > _REACH.index(bound)


def policy_of(
    annotations: dict[str, Any] | None,
    said: dict[str, Any],
    *,
    trusted: bool,
    widest: Share = "all",
) -> SharingPolicy:
    """Return the sharing policy of an MCP tool (`docs/protocol.md`, "Sharing policy").

    Untrusted annotations count as absent: nothing is shared, nothing runs twice. `said` has
    fields of the policy, where an operator knows better; the defaults of the others follow
    from it. A success that may be served again changes nothing, so `cache_ttl_s` makes a
    tool read-only. Nothing is shared beyond `widest`.
    """
    hints = annotations if trusted and annotations else {}
    read_only = hints.get("readOnlyHint") is True or bool(said.get("cache_ttl_s"))
    read_only = said.get("read_only", read_only)
    default = SharingPolicy(
        share="principal" if read_only else "none",
        idempotent=read_only or hints.get("idempotentHint") is True,
        read_only=read_only,
    )
    policy = msgspec.structs.replace(default, **said)
    return (
        msgspec.structs.replace(policy, share=widest) if is_wider(policy.share, widest) else policy
    )


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a client sees of a tool, and what the call path must know of it.

    `input_schema`, `output_schema`, `annotations` and `meta` are the server's own objects,
    untouched. `provider` names whoever serves the tool; the tools of one
    provider share an epoch (`calls.call_key.Epochs`).
    """

    name: str
    description: str
    input_schema: dict[str, Any]
    title: str | None = None
    output_schema: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None
    icons: list[dict[str, Any]] | None = None
    meta: dict[str, Any] | None = None
    provider: str = "exai"
    version: str = "1"
    policy: SharingPolicy = SharingPolicy()
    timeout_s: float | None = None


class Demand(msgspec.Struct, frozen=True):
    """What a call needs at once in order to run, beside the session's and the daemon's permits.

    `scope` is a `provider_scope` or an `upstream_scope`; None where the work meets no
    provider, or asks for each request's permit while it runs (`ToolRun.permit`).
    `conversation` names what one call at a time may continue; such a call is never shared.
    """

    scope: str | None = None
    conversation: str | None = None


def provider_scope(name: str) -> str:
    """Name the permits of an LLM service."""
    return f"provider:{name}"


def upstream_scope(name: str) -> str:
    """Name the permits of an MCP server."""
    return f"upstream:{name}"


class ToolRun(ABC):
    """One execution of a tool, as the tool sees it. A tool keeps no state between runs."""

    call_id: str
    principal: Principal
    session_id: str = ""
    traceparent: str | None = None
    meta: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """What goes along to an MCP server (`CallTool.meta`)."""
    input: dict[str, Any] = {}  # noqa: RUF012 - never changed
    """What the server had asked for (`CallTool.input`)."""
    client: ClientSide | None = None
    """How to ask the client of the session that the work is done for."""
    may_have_begun: bool = True
    """Whether the work may have had an effect by now. A tool that has to wait before it can
    begin sets it to False, and to True when it begins."""

    @property
    @abstractmethod
    def deadline(self) -> float:
        """Return until when the work is of use, monotonic.

        The tool may plan with it, the call path enforces it.
        """

    @abstractmethod
    def report(
        self,
        message: str | None = None,
        *,
        progress: float | None = None,
        total: float | None = None,
        level: LogLevel | None = None,
    ) -> None:
        """Tell the callers how far the work is. Never waits."""

    @abstractmethod
    def log(self, entry: dict[str, Any]) -> None:
        """Tell the callers what an MCP server wrote to its client's log. Never waits.

        `entry` is the notification's `params`: `level`, `data` and maybe `logger`.
        """

    @abstractmethod
    def stream(self, delta: str) -> None:
        """Tell the callers the next piece of the output's text. Never waits."""

    @abstractmethod
    def begin_attempt(self) -> None:
        """Start over: what was streamed so far belongs to an attempt that failed."""

    @abstractmethod
    def permit(self, scope: str) -> AbstractAsyncContextManager[None]:
        """Hold a permit of `scope` while the context is open; entering waits for it.

        For work that meets its providers only while it runs: one permit for each request.
        Whoever holds a permit waits for no other, so a fallback leaves the one before it
        enters the next; anything else is a defect and raises `RuntimeError`.
        """


class Tool(ABC):
    """Something that can be called."""

    spec: ToolSpec

    @abstractmethod
    def check(self, arguments: dict[str, Any]) -> None:
        """Check the arguments against the tool's schema.

        Raises `ArgumentsInvalid` with the JSON Pointer of the first fault.
        """

    async def demand_of(self, arguments: dict[str, Any], principal: Principal) -> Demand:
        """Say what a call with these arguments needs.

        Raises `NotConfigured` or `ArgumentsInvalid` where the arguments lead to no
        provider, or to nothing that this principal has.
        """
        return Demand()

    @abstractmethod
    async def run(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Do the work.

        Raises `ToolFailed`, `UpstreamFailed`, `ProviderFailed`, `NotConfigured` or
        `ResultTooLarge`. When cancelled, returns (by raising `CancelledError`) only when
        the work has really ended or can no longer be waited for: the call's permits are
        released at that moment.
        """

    async def hand_out(
        self, completed: Completed, arguments: dict[str, Any], principal: Principal, call_id: str
    ) -> Completed:
        """Return what one caller of a finished execution gets: each may get its own.

        Called once for each caller, also where it joined or was served from the cache.
        """
        return completed
