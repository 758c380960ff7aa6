"""What a caller is told when a server did not answer a call, and whether to ask again."""

from exai.core.errors import UpstreamFailed
from exai.upstream.json_rpc import BrokenAnswer, ServerLost, StatusAnswer

CallFault = BrokenAnswer | StatusAnswer | ServerLost
CALL_FAULTS = (BrokenAnswer, StatusAnswer, ServerLost)


def can_move_on(fault: CallFault, *, idempotent: bool) -> bool:
    """Tell whether the server's next life may be sent what this one could not do."""
    is_surely_undone = isinstance(fault, ServerLost) and not fault.was_written
    return isinstance(fault, ServerLost) and fault.has_moved_on and (is_surely_undone or idempotent)


def upstream_failed(upstream: str, fault: CallFault, *, idempotent: bool) -> UpstreamFailed:
    """Return the failure, retryable where nothing can have happened, or may happen twice."""
    match fault:
        case BrokenAnswer():
            return _unanswered(f"{upstream} broke the protocol: {fault}", idempotent)
        case ServerLost(was_written=True):
            return _unanswered(f"{upstream} {fault}", idempotent)
        case ServerLost():
            return UpstreamFailed(f"{upstream} {fault}", retryable=True)
        case StatusAnswer(may_have_run=True):
            return _unanswered(f"{upstream} {fault}", idempotent, status=fault.status)
    return UpstreamFailed(
        f"{upstream} {fault}",
        retryable=fault.retryable,
        retry_after_s=fault.retry_after_s,
        status=fault.status,
    )


def _unanswered(message: str, idempotent: bool, **details: int) -> UpstreamFailed:
    effect = {} if idempotent else {"may_have_run": True}
    return UpstreamFailed(message, retryable=idempotent, **effect, **details)
