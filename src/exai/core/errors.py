"""Error codes, what each tells the peer to do, and the exceptions that carry them.

Knows the whole vocabulary of failure (`docs/protocol.md`, "Errors"); knows nothing of
frames or of who is told. Inside the daemon errors are raised as the classes below; at
the one boundary (`calls.defects`) `describe()` turns them into `ErrorInfo`.
"""

from enum import StrEnum
from typing import Any, ClassVar

import msgspec


class ErrorCode(StrEnum):
    """Every code that may stand in a wire error."""

    PROTOCOL_ERROR = "PROTOCOL_ERROR"
    INVALID_REQUEST = "INVALID_REQUEST"
    VALIDATION_ERROR = "VALIDATION_ERROR"
    TOOL_NOT_FOUND = "TOOL_NOT_FOUND"
    UNAUTHORIZED = "UNAUTHORIZED"
    NOT_CONFIGURED = "NOT_CONFIGURED"
    FILE_REFUSED = "FILE_REFUSED"
    REQUEST_ID_CONFLICT = "REQUEST_ID_CONFLICT"
    RATE_LIMITED = "RATE_LIMITED"
    OVER_CAPACITY = "OVER_CAPACITY"
    BUDGET_EXCEEDED = "BUDGET_EXCEEDED"
    TIMEOUT = "TIMEOUT"
    CANCELLED = "CANCELLED"
    INTERRUPTED = "INTERRUPTED"
    TOOL_EXECUTION_ERROR = "TOOL_EXECUTION_ERROR"
    UPSTREAM_ERROR = "UPSTREAM_ERROR"
    PROVIDER_ERROR = "PROVIDER_ERROR"
    PROVIDER_UNAVAILABLE = "PROVIDER_UNAVAILABLE"
    RESULT_UNKNOWN = "RESULT_UNKNOWN"
    RESULT_TOO_LARGE = "RESULT_TOO_LARGE"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"


class ErrorInfo(msgspec.Struct, frozen=True):
    """An error as a value: what a peer is told, and what a store keeps."""

    code: ErrorCode
    message: str
    retryable: bool
    retry_after_s: float | msgspec.UnsetType = msgspec.UNSET
    details: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


NOTHING_DONE = frozenset({ErrorCode.VALIDATION_ERROR, ErrorCode.NOT_CONFIGURED})
"""What a tool raises before it does anything."""


class ExaiError(Exception):
    """Root of every error that a peer may be told about.

    `retryable=True` promises that the work did not start, or that the tool is
    idempotent. `details` must be JSON-encodable.
    """

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL_ERROR
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        retryable: bool | None = None,
        retry_after_s: float | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self._info = ErrorInfo(
            code=self.code,
            message=message,
            retryable=self.retryable if retryable is None else retryable,
            retry_after_s=msgspec.UNSET if retry_after_s is None else retry_after_s,
            details=details or msgspec.UNSET,
        )

    def describe(self) -> ErrorInfo:
        """Return what the peer is told."""
        return self._info


class MalformedFrame(ExaiError):
    """The frame is no JSON object of this protocol, or its op is unknown."""

    code = ErrorCode.PROTOCOL_ERROR


class InvalidRequest(ExaiError):
    """A field is missing or of the wrong type."""

    code = ErrorCode.INVALID_REQUEST


class ArgumentsInvalid(ExaiError):
    """Arguments do not fit the tool's schema; `path` is a JSON Pointer."""

    code = ErrorCode.VALIDATION_ERROR

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message, path=path)


class ToolNotFound(ExaiError):
    """No such tool, or none that this identity may see."""

    code = ErrorCode.TOOL_NOT_FOUND


class NotConfigured(ExaiError):
    """A key, a model or a package is missing; the message says what to set."""

    code = ErrorCode.NOT_CONFIGURED


class RequestIdConflict(ExaiError):
    """The id is taken by a call with another name or other arguments."""

    code = ErrorCode.REQUEST_ID_CONFLICT


class RateExceeded(ExaiError):
    """Too many messages came in too short a time."""

    code = ErrorCode.RATE_LIMITED
    retryable = True


class QueueFull(ExaiError):
    """No place to wait, or the wait would outlast the deadline; `details.scope` says where."""

    code = ErrorCode.OVER_CAPACITY
    retryable = True


class DeadlinePassed(ExaiError):
    """The call's time ran out; `details.phase` is `queue` or `run`."""

    code = ErrorCode.TIMEOUT


class CallCancelled(ExaiError):
    """The caller took its call back."""

    code = ErrorCode.CANCELLED


class CallInterrupted(ExaiError):
    """The daemon ended while the call ran; whether it `may_have_run` matters if not idempotent."""

    code = ErrorCode.INTERRUPTED

    def __init__(self, *, may_have_run: bool) -> None:
        told = "; it may have had its effect" if may_have_run else ""
        effect = {"may_have_run": True} if may_have_run else {}
        super().__init__(
            f"the daemon ended while the call ran{told}", retryable=not may_have_run, **effect
        )


class ToolFailed(ExaiError):
    """The tool itself says that it failed; `outputs` is what it said."""

    code = ErrorCode.TOOL_EXECUTION_ERROR

    def __init__(
        self,
        message: str,
        *,
        outputs: list[dict[str, Any]] | None = None,
        structured: dict[str, Any] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.outputs = outputs or []
        self.structured = structured


class UpstreamFailed(ExaiError):
    """The MCP server died, cannot be reached, or broke the protocol."""

    code = ErrorCode.UPSTREAM_ERROR


class ProviderFailed(ExaiError):
    """The LLM service refused or failed; `details.status` is its HTTP status."""

    code = ErrorCode.PROVIDER_ERROR


class ResultUnknown(ExaiError):
    """Nothing is known of this request, or its payload is gone."""

    code = ErrorCode.RESULT_UNKNOWN


class ResultTooLarge(ExaiError):
    """One result is over the limit for results."""

    code = ErrorCode.RESULT_TOO_LARGE


class ServiceUnavailable(ExaiError):
    """The daemon is draining, or its store is down."""

    code = ErrorCode.SERVICE_UNAVAILABLE
    retryable = True


def daemon_stopping() -> ServiceUnavailable:
    """Return the refusal of a daemon that ends, and begins nothing new."""
    return ServiceUnavailable("the daemon is stopping; reconnect and try again")
