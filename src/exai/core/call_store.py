"""The contract of the ledger: what is known of every accepted call, through its life.

    ACCEPTED -> RUNNING -> SETTLED -> ERASED

Every method is one compare-and-set on one record, or on a batch of independent ones, and
takes `now` (unix seconds) and the owner's boot id where they matter; none takes a callback
or leaves a transaction open, so that any database can stand behind it. The memory twin
defines the behaviour.
"""

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import Literal

import msgspec

from exai.core.outcomes import SUCCESS, Outcome, code_of


class CallState(StrEnum):
    """Where a call is in its life."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    SETTLED = "settled"
    ERASED = "erased"


ErasedBecause = Literal["acknowledged", "expired"]


class Settlement(msgspec.Struct, frozen=True):
    """A call's outcome, how long it took to reach it, and whose work it was."""

    outcome: Outcome
    queue_s: float
    run_s: float
    joined: bool = False
    cached: bool = False


class Summary(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What is remembered of a settlement that is erased: `code` is that of its outcome."""

    code: str
    queue_s: float
    run_s: float
    attempts: int = 1
    joined: bool = False
    cached: bool = False
    provider: str | None = None
    model: str | None = None

    @property
    def succeeded(self) -> bool:
        """Tell whether the outcome was a success."""
        return self.code == SUCCESS


def summary_of(settlement: Settlement) -> Summary:
    """Return what stays of a settlement."""
    outcome, facts = settlement.outcome, settlement.outcome.facts
    return Summary(
        code_of(outcome),
        settlement.queue_s,
        settlement.run_s,
        facts.attempts,
        settlement.joined,
        settlement.cached,
        facts.provider,
        facts.model,
    )


class CallRecord(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the ledger knows of one call. Times named `_at` are unix seconds.

    `arguments_digest` covers tool name and canonical arguments. `request` is the request as
    JSON, there only while the call may have to run, or to run again: it goes when a call that
    may run only once starts, when an `idempotent` one starts its second attempt, and when it
    settles. `follows` is the call that is the same request by its key. `sent_at` is when a
    result was first written to a socket, where its client does not acknowledge; a restart may
    forget it, for then the result is sent again. `settlement`, and the `result_bytes` that it
    takes, are gone once the state is ERASED; `erased_because` and `summary` stay.
    """

    call_id: str
    session_id: str
    principal: str
    request_id: str
    tool: str
    arguments_digest: bytes
    accepted_at: float
    timeout_s: float
    idempotency_key: str | None = None
    idempotent: bool = False
    follows: str | None = None
    request: bytes | None = None
    state: CallState = CallState.ACCEPTED
    owner: str = ""
    attempt: int = 0
    started_at: float | None = None
    settled_at: float | None = None
    settlement: Settlement | None = None
    result_bytes: int = 0
    summary: Summary | None = None
    sent_at: float | None = None
    erased_at: float | None = None
    erased_because: ErasedBecause | None = None

    @property
    def is_unsettled(self) -> bool:
        """Tell whether the call's outcome is still to come."""
        return self.state in (CallState.ACCEPTED, CallState.RUNNING)


class FoundCalls(msgspec.Struct, frozen=True):
    """The newest calls of one name, newest first, and how many there are beside them.

    The records are without what was said: their `request` and `settlement` are None.
    """

    records: list[CallRecord]
    more_count: int


class SessionBounds(msgspec.Struct, frozen=True):
    """How much is kept for one session: sent results, their size together, and erased ids."""

    max_results: int
    max_result_bytes: int
    max_tombstones: int


class SessionUsage(msgspec.Struct, frozen=True):
    """How much is kept for one session: its results that are not erased."""

    result_count: int
    result_bytes: int


class StoreStatistics(msgspec.Struct, frozen=True):
    """How full the ledger is."""

    record_count: int
    result_bytes: int


class CallStore(ABC):
    """Where calls and their outcomes rest. One that is down raises `ServiceUnavailable`."""

    durable: bool
    """Whether what is stored outlives the daemon's process."""

    @property
    @abstractmethod
    def ledger_id(self) -> str:
        """Return what names this ledger, and no other, as long as it lives."""

    @abstractmethod
    async def accept(self, record: CallRecord) -> CallRecord | None:
        """Insert `record` and return None; or return the record that has its id already.

        Its state is ACCEPTED, or RUNNING where nothing is to be waited for.
        The same id is the same `(session_id, request_id)`, or the same `(principal,
        idempotency_key)`. Nothing is changed in that case.
        """

    @abstractmethod
    async def start(self, call_id: str, owner: str, attempt: int, now: float) -> bool:
        """ACCEPTED (or RUNNING of an earlier attempt) -> RUNNING. False: not in such a state."""

    @abstractmethod
    async def settle(self, call_id: str, settlement: Settlement, now: float) -> bool:
        """ACCEPTED or RUNNING -> SETTLED. False: settled before; that answer stands."""

    @abstractmethod
    async def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return what is known of a session's request."""

    @abstractmethod
    async def knows(self, session_id: str, request_id: str) -> bool:
        """Tell whether a session's request may be known; False is certain."""

    @abstractmethod
    async def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return what is known of the request that a principal gave this key, in any session."""

    @abstractmethod
    async def find_call(self, call_id: str) -> CallRecord | None:
        """Return what is known of a call, in whatever session."""

    @abstractmethod
    async def find_all(self, principal: str, name: str, limit: int) -> FoundCalls:
        """Return a principal's calls of this call id or request id, at most `limit`.

        Of those that were accepted in one moment the one with the higher call id comes first.
        """

    @abstractmethod
    async def key_count(self, principal: str) -> int:
        """Return how many idempotency keys of a principal are remembered."""

    @abstractmethod
    async def acknowledge(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """SETTLED -> ERASED for those of `request_ids` that are settled; return how many.

        Forgets the session's oldest tombstones over the bounds; those with an idempotency key
        neither count nor go.
        """

    @abstractmethod
    async def owed(self, session_id: str) -> list[str]:
        """Return a session's requests whose answer is to come or not erased, oldest first."""

    @abstractmethod
    async def unsettled(self) -> list[CallRecord]:
        """Return all calls that were accepted and have not settled, oldest first.

        A daemon asks once, when it begins: these are what its predecessor left behind.
        """

    @abstractmethod
    async def usage(self, session_id: str) -> SessionUsage:
        """Return how much is kept for a session."""

    @abstractmethod
    async def principal_result_bytes(self, principal: str) -> int:
        """Return how large a principal's results are together, over all its sessions."""

    @abstractmethod
    async def mark_sent(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> int:
        """Note that these results were sent, so that they may make room for others.

        Erases the session's oldest sent results over the bounds, and returns how many; forgets
        its oldest tombstones as `acknowledge` does.
        """

    @abstractmethod
    async def forget_sent(self, session_id: str) -> None:
        """Note that none of a session's results was sent: they are about to be sent again."""

    @abstractmethod
    async def trim_keyed(self, principal: str, max_bytes: int, now: float) -> int:
        """Erase the oldest results that only their keys keep, over `max_bytes` a principal.

        These are the results of sessions that have ended. Returns how many were erased.
        """

    @abstractmethod
    async def expire(self, now: float, result_ttl_s: float, idempotency_ttl_s: float) -> int:
        """Erase results that settled `result_ttl_s` ago, and forget what was erased so long ago.

        A tombstone with an idempotency key stays until the call settled
        `idempotency_ttl_s` ago. Returns how many results were erased.
        """

    @abstractmethod
    async def end_session(self, session_id: str) -> None:
        """Forget all records of a session, but for those with an idempotency key.

        These are found by their key alone from now on.
        """

    @abstractmethod
    def statistics(self) -> StoreStatistics:
        """Return the numbers now."""
