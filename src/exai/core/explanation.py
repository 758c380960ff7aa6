"""What became of calls, as it is told to whoever made them.

Never what was said: neither arguments nor results, of which only sizes and codes are here.
"""

from enum import StrEnum

import msgspec

from exai.core.call_store import ErasedBecause


class CallStage(StrEnum):
    """Where a call is: as `CallState`, but for one that is not accepted yet."""

    ARRIVING = "arriving"
    ACCEPTED = "accepted"
    RUNNING = "running"
    SETTLED = "settled"
    ERASED = "erased"


class ExplainedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call. Times named `_at` are unix seconds; what has not happened is None.

    `session_id` may be forgotten once the session has ended. `provider` is who serves the tool: a
    service of models, an MCP server, or the daemon. `follows` is the call that is the same
    request by its key. `boot_id` names the process that executed it last; `is_under_way` says
    that it waits or runs in the one that tells this, and `place` where it stands in line.
    `queue_s` and `run_s` count up to now, where that is not over; `attempts` is 0 where nothing
    was executed for it. `sent_at` is when it was noted that the result had been sent, which is
    done for some at a time, and not for a client that acknowledges.
    """

    call_id: str
    request_id: str
    session_id: str | None
    tool: str
    provider: str | None = None
    model: str | None = None
    state: CallStage
    idempotent: bool
    joined: bool
    cached: bool
    follows: str | None = None
    accepted_at: float | None = None
    timeout_s: float | None = None
    queue_s: float = 0.0
    run_s: float = 0.0
    started_at: float | None = None
    attempts: int = 0
    boot_id: str | None = None
    is_under_way: bool
    place: str | None = None
    settled_at: float | None = None
    code: str | None = None
    result_bytes: int = 0
    sent_at: float | None = None
    erased_at: float | None = None
    erased_because: ErasedBecause | None = None


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The newest calls of one id, newest first, and how many older ones there are.

    `t` is now, in unix seconds; `boot_id` names the process that tells this.
    """

    id: str
    t: float
    boot_id: str
    calls: list[ExplainedCall]
    more_count: int
