"""Facts that happened, for eyes that subscribe. Rooms emit; `observe` listens.

An event holds names, sizes and durations: never arguments, outputs or secrets.
"""

from typing import NamedTuple, Protocol

import msgspec


class Whose(NamedTuple):
    """Whom a fact is about, as far as that is known."""

    session_id: str | None = None
    request_id: str | None = None
    call_id: str | None = None


class Event(msgspec.Struct, frozen=True):
    """Root of all events."""


class CallAccepted(Event, frozen=True):
    """A call was accepted and will be answered."""

    call_id: str
    request_id: str
    session_id: str
    principal: str
    tool: str


class CallRejected(Event, frozen=True):
    """A call was refused before acceptance. `scope` is what was full, where something was."""

    call_id: str
    request_id: str
    session_id: str
    principal: str
    tool: str
    code: str
    scope: str = ""


class CallSettled(Event, frozen=True):
    """A call got its outcome. `code` is `ok` or an error code.

    `shared` is how the work of others answered it, if it did: `joined` or `cached`.
    """

    call_id: str
    request_id: str
    session_id: str
    principal: str
    tool: str
    code: str
    queue_s: float
    run_s: float
    shared: str | None = None


class CallsRecovered(Event, frozen=True):
    """What an earlier process left: calls that are run, or run again, and those that cannot be."""

    run_count: int
    repeated_count: int
    settled_count: int


class SessionUnkept(Event, frozen=True):
    """A session could not be stored, and takes no call until it is."""

    session_id: str
    principal: str
    reason: str


class WorkEnded(Event, frozen=True):
    """One execution of a model tool has ended, for however many callers: whose the first was."""

    session_id: str | None
    request_id: str | None
    call_id: str | None
    tool: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int


class CallFailedInside(Event, frozen=True):
    """A defect: an exception that nobody expected reached the boundary."""

    error_id: str
    where: str
    exception: BaseException
    session_id: str | None = None
    request_id: str | None = None
    call_id: str | None = None


class SessionOpened(Event, frozen=True):
    """A peer said hello and was let in."""

    session_id: str
    principal: str
    remote_address: str
    client_name: str


class SessionResumed(Event, frozen=True):
    """A peer came back to its session, which owes it so many answers."""

    session_id: str
    principal: str
    remote_address: str
    owed_count: int


class SessionDetached(Event, frozen=True):
    """A session lost its connection, and waits for its peer to come back."""

    session_id: str
    principal: str
    reason: str


class SessionEnded(Event, frozen=True):
    """A session is over."""

    session_id: str
    principal: str
    reason: str


class TokenReplaced(Event, frozen=True):
    """A principal replaced its token; the old one is valid for `grace_s` more."""

    session_id: str
    principal: str
    grace_s: float
    revoked_count: int


class TokenRotationFailed(Event, frozen=True):
    """A principal's token was not replaced."""

    session_id: str
    principal: str
    reason: str


class ConnectionRefused(Event, frozen=True):
    """A peer was not let in."""

    remote_address: str
    reason: str


class PermitLeaked(Event, frozen=True):
    """A defect: somebody has ended and still holds a permit."""

    scope: str
    owner: str


class MonitorFailed(Event, frozen=True):
    """A background task of the health monitor ended; it is started again in `retry_s`."""

    task: str
    reason: str
    retry_s: float


class CertificateLoaded(Event, frozen=True):
    """New connections are shown a new certificate."""

    certificate: str


class AccessOpened(Event, frozen=True):
    """The daemon asks nobody for a token; `warning` says what that means."""

    warning: str


class CertificateRefused(Event, frozen=True):
    """A changed certificate cannot be used; the one before goes on to be shown."""

    certificate: str
    reason: str


class UpstreamStarted(Event, frozen=True):
    """An MCP server answered its handshake and its tools are known.

    It has either a process (`pid`), or a `url`, of which nothing secret is shown.
    """

    upstream: str
    pid: int | None
    url: str | None
    tool_count: int
    start_s: float


class UpstreamDied(Event, frozen=True):
    """An MCP server ended, or its start failed; it is started again in `retry_s`."""

    upstream: str
    reason: str
    retry_s: float


class UpstreamGaveUp(Event, frozen=True):
    """An MCP server died too often in too short a time; it stays down for `retry_s`."""

    upstream: str
    reason: str
    retry_s: float


class UpstreamStopped(Event, frozen=True):
    """An instance of an MCP server is not needed any more, and is told to end."""

    upstream: str
    pid: int | None
    reason: str


class UpstreamSpoke(Event, frozen=True):
    """One line of an MCP server's stderr, cut and escaped."""

    upstream: str
    line: str


class UpstreamRestartAsked(Event, frozen=True):
    """Somebody has an MCP server ended and started again."""

    upstream: str
    principal: str


class UpstreamsReloaded(Event, frozen=True):
    """Somebody had the configuration of MCP servers read again; how many it changed."""

    principal: str
    added: int
    removed: int
    restarted: int
    adjusted: int


class ToolUnavailable(Event, frozen=True):
    """A tool of an MCP server cannot be offered."""

    upstream: str
    tool: str
    reason: str


class OfferUnavailable(Event, frozen=True):
    """A resource, a template or a prompt of an MCP server cannot be offered."""

    upstream: str
    kind: str
    name: str
    reason: str


class UpstreamUnlisted(Event, frozen=True):
    """An MCP server did not say what it has of a kind; what was known of it stays."""

    upstream: str
    kind: str
    reason: str


class ProviderStarted(Event, frozen=True):
    """A local model process is ready."""

    provider: str
    pid: int
    start_s: float


class ProviderDied(Event, frozen=True):
    """A local model process ended by itself."""

    provider: str
    reason: str


class DaemonOpened(Event, frozen=True):
    """Both ports are open."""

    version: str
    pid: int
    websocket_url: str
    http_url: str
    auth: str


class DaemonReady(Event, frozen=True):
    """The daemon takes traffic: every MCP server had its first start, or time enough for it."""

    start_s: float


class DaemonDraining(Event, frozen=True):
    """The daemon takes nothing new, and finishes what runs within `drain_s`."""

    drain_s: float
    session_count: int
    call_count: int


class DaemonStopped(Event, frozen=True):
    """The daemon has ended as it should, after so long; so many calls were cut off."""

    stop_s: float
    interrupted_count: int


class UpgradeAsked(Event, frozen=True):
    """The daemon is to be replaced by the program that is installed now, if that would start."""


class UpgradeRefused(Event, frozen=True):
    """The daemon goes on as if nothing had happened: its successor would not start."""

    reason: str


class UpgradeAgreed(Event, frozen=True):
    """The daemon ends, and leaves its sockets to its successor, for whom new peers wait."""


class UpgradeAbandoned(Event, frozen=True):
    """The daemon was told to end while it made room for its successor, and ends for good."""


class UpgradeFailed(Event, frozen=True):
    """The daemon has ended, and its successor could not be run."""

    reason: str


class DaemonFailed(Event, frozen=True):
    """A defect has ended the daemon."""

    exception: BaseException


class DaemonCutShort(Event, frozen=True):
    """The daemon ends at once, whatever it is at."""

    reason: str


class EventSink(Protocol):
    """Where events go. Must not raise and must not wait."""

    def emit(self, event: Event) -> None:
        """Take one event."""
