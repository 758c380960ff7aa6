"""What is known of every call but what was said: where each stands, and whose room it takes.

Every ledger of this process keeps one, whether what was said rests in memory or on a disk.
Nothing here waits. What changes beside the call that was named is told (`Changes`), for
whoever keeps the rest.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from heapq import nlargest
from typing import NamedTuple

import msgspec

from exai.core.call_store import (
    CallRecord,
    CallState,
    ErasedBecause,
    FoundCalls,
    SessionBounds,
    SessionUsage,
    Summary,
)
from exai.stores.by_time import ByTime
from exai.stores.holdings import Holdings

RECORDS_PER_TURN = 1000
"""How many may change before others have their turn."""


class Changes:
    """Calls, by their ids: whose session ended, whose result was erased, which are forgotten."""

    def __init__(self) -> None:
        self.left: list[str] = []
        self.erased: list[CallRecord] = []
        self.forgotten: list[str] = []

    def __len__(self) -> int:
        """Return how many changes there are."""
        return len(self.left) + len(self.erased) + len(self.forgotten)


class StoredCall(NamedTuple):
    """A call as it was stored. `rank` orders results that settled or left their session, and
    tombstones, as it happened.
    """

    record: CallRecord
    rank: int


class CallIndex:
    """All calls, by their names and in the order of their times.

    `_keyed_at` is when a call with a key settled. A tombstone stands in `_erased_at` if it has
    no key, else in `_keyed_at` alone.
    """

    def __init__(self) -> None:
        self.result_bytes = 0
        self._records: dict[str, CallRecord] = {}
        self._by_session: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._by_key: defaultdict[str, dict[str, str]] = defaultdict(dict)
        self._settled_at = ByTime()
        self._erased_at = ByTime()
        self._keyed_at = ByTime()
        self._of_session: defaultdict[str, Holdings] = defaultdict(Holdings)
        self._of_principal: defaultdict[str, Holdings] = defaultdict(Holdings)
        self._bytes_of_principal: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many calls are known."""
        return len(self._records)

    def get(self, call_id: str) -> CallRecord | None:
        """Return a call's record."""
        return self._records.get(call_id)

    def find(self, session_id: str, request_id: str) -> CallRecord | None:
        """Return the record of a session's request."""
        of_session = self._by_session.get(session_id)
        call_id = None if of_session is None else of_session.get(request_id)
        return None if call_id is None else self._records[call_id]

    def find_by_key(self, principal: str, idempotency_key: str) -> CallRecord | None:
        """Return the record of the request that a principal gave this key."""
        call_id = self._by_key.get(principal, {}).get(idempotency_key)
        return None if call_id is None else self._records[call_id]

    def find_all(self, principal: str, name: str, limit: int) -> FoundCalls:
        """Ask every session, and every key of the principal; a session may have ended."""
        in_sessions = [ids[name] for ids in self._by_session.values() if name in ids]
        of_keys = self._by_key.get(principal, {}).values()
        found = [
            record
            for call_id in {name, *in_sessions, *of_keys}
            if (record := self._records.get(call_id)) is not None
            and record.principal == principal
            and name in (record.call_id, record.request_id)
        ]
        newest = nlargest(limit, found, key=lambda record: (record.accepted_at, record.call_id))
        said_nothing = [msgspec.structs.replace(record, request=None) for record in newest]
        return FoundCalls(said_nothing, len(found) - len(newest))

    def unsettled(self) -> list[CallRecord]:
        """Return the records without an outcome, oldest first."""
        return [record for record in self._records.values() if record.is_unsettled]

    def key_count(self, principal: str) -> int:
        """Return how many keys of a principal are remembered."""
        return len(self._by_key.get(principal, {}))

    def principal_result_bytes(self, principal: str) -> int:
        """Return how large a principal's results are together, over all its sessions."""
        return self._bytes_of_principal[principal]

    def owed(self, session_id: str) -> list[CallRecord]:
        """Return a session's calls that have not settled, or are not erased."""
        records = [self._records[each] for each in self._by_session.get(session_id, {}).values()]
        return [record for record in records if record.state is not CallState.ERASED]

    def usage(self, session_id: str) -> SessionUsage:
        """Return how many results a session has, and how large they are together."""
        holdings = self._of_session.get(session_id, Holdings())
        return SessionUsage(len(holdings.result_bytes), holdings.total_bytes)

    def accept(self, record: CallRecord) -> CallRecord | None:
        """Add a record, unless its id is known: then return that one."""
        known = self.find(record.session_id, record.request_id)
        if known is None and record.idempotency_key is not None:
            known = self.find_by_key(record.principal, record.idempotency_key)
        if known is not None:
            return known
        self._add(record)
        return None

    def withdraw(self, call_id: str) -> None:
        """Forget a call that could not be stored."""
        if call_id in self._records:
            self._forget(call_id, Changes())

    def start(self, call_id: str, owner: str, attempt: int, now: float) -> CallRecord | None:
        """Mark a call as running; return its record, None where it may not start."""
        record = self._records.get(call_id)
        if record is None or not record.is_unsettled or record.attempt >= attempt:
            return None
        started = self._records[call_id] = msgspec.structs.replace(
            record,
            state=CallState.RUNNING,
            owner=owner,
            attempt=attempt,
            started_at=now,
            request=record.request if record.idempotent and attempt == 1 else None,
        )
        return started

    def settle(self, call_id: str, summary: Summary, size_bytes: int, now: float) -> bool:
        """Mark a call as settled. False: it is already, or is not known."""
        record = self._records.get(call_id)
        if record is None or not record.is_unsettled:
            return False
        self._records[call_id] = msgspec.structs.replace(
            record,
            state=CallState.SETTLED,
            request=None,
            settled_at=now,
            summary=summary,
            result_bytes=size_bytes,
        )
        self._settled_at.add(call_id, now)
        if record.idempotency_key is not None:
            self._keyed_at.add(call_id, now)
        self._account_of(record).add_result(call_id, size_bytes)
        self._count_bytes(record, size_bytes)
        return True

    def undo_start(self, before: CallRecord, attempt: int) -> None:
        """Let a call be as before an attempt that could not be stored.

        What happened to it since then stays: it may have settled, or be forgotten.
        """
        record = self._records.get(before.call_id)
        if record is None or record.attempt != attempt:
            return
        is_running = record.state is CallState.RUNNING
        self._records[record.call_id] = msgspec.structs.replace(
            record,
            state=before.state if is_running else record.state,
            owner=before.owner,
            attempt=before.attempt,
            started_at=before.started_at,
        )

    def undo_settle(self, call_id: str) -> None:
        """Let a call be without the outcome that could not be stored.

        What happened to it since then stays: its session may have ended, it may be erased or
        forgotten.
        """
        record = self._records.get(call_id)
        if record is None or record.state is not CallState.SETTLED:
            return
        self._settled_at.discard(call_id)
        self._keyed_at.discard(call_id)
        self._count_bytes(record, -self._account_of(record).forget(call_id))
        self._drop_what_is_empty(record)
        self._records[call_id] = msgspec.structs.replace(
            record,
            state=CallState.RUNNING if record.attempt else CallState.ACCEPTED,
            settled_at=None,
            summary=None,
            result_bytes=0,
            sent_at=None,
        )

    def mark_sent(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> Changes:
        """Let sent results make room for others."""
        of_session = self._by_session.get(session_id, {})
        for request_id in request_ids:
            call_id = of_session.get(request_id)
            if call_id is not None and call_id in self._settled_at:
                self._of_session[session_id].mark_sent(call_id)
                record = self._records[call_id]
                if record.sent_at is None:
                    self._records[call_id] = msgspec.structs.replace(record, sent_at=now)
        return self._trim(session_id, bounds, now, Changes())

    def forget_sent(self, session_id: str) -> None:
        """Let no result make room for others."""
        if session_id in self._of_session:
            self._of_session[session_id].forget_sent()

    def acknowledge(
        self, session_id: str, request_ids: list[str], bounds: SessionBounds, now: float
    ) -> tuple[int, Changes]:
        """Erase acknowledged results; return how many these were."""
        changes = Changes()
        of_session = self._by_session.get(session_id, {})
        named = {of_session[each]: None for each in request_ids if each in of_session}
        settled = [call_id for call_id in named if call_id in self._settled_at]
        for call_id in settled:
            self._erase(call_id, "acknowledged", now, changes)
        return len(settled), self._trim(session_id, bounds, now, changes)

    def trim_keyed(self, principal: str, max_bytes: int, now: float) -> Changes:
        """Erase the oldest results that only their keys keep."""
        changes, holdings = Changes(), self._of_principal.get(principal, Holdings())
        while holdings.total_bytes > max_bytes:
            self._erase(holdings.oldest_result, "expired", now, changes)
        return changes

    def expire(self, now: float, result_ttl_s: float, idempotency_ttl_s: float) -> Changes:
        """Erase old results, forget old tombstones."""
        changes, horizon = Changes(), now - result_ttl_s
        for call_id in self._erased_at.until(horizon):
            self._forget(call_id, changes)
        for call_id in self._settled_at.until(horizon):
            self._erase(call_id, "expired", now, changes)
        for call_id in self._keyed_at.until(now - max(idempotency_ttl_s, result_ttl_s)):
            self._forget(call_id, changes)
        return changes

    def end_session(self, session_id: str, most: int) -> Changes:
        """Forget a session's records, at most so many, but for those with an idempotency key."""
        changes, of_session = Changes(), self._by_session.get(session_id, {})
        for call_id in list(of_session.values())[:most]:
            self._leave_session(self._records[call_id], changes)
        return changes

    def load(self, stored: Sequence[StoredCall]) -> Changes:
        """Take in what was stored, in the order of acceptance; nothing was taken in before.

        Of two that have one name the later stands: it was accepted because the earlier had
        left its session, or was forgotten, which could not be stored.
        """
        changes = Changes()
        for call in stored:
            self._add_instead(call.record, changes)
        by_rank = [
            call
            for call in sorted(stored, key=lambda call: call.rank)
            if call.record.call_id in self._records
        ]
        for record, _ in by_rank:
            if record.state is CallState.SETTLED:
                self._account_of(record).add_result(record.call_id, record.result_bytes)
                self._count_bytes(record, record.result_bytes)
            elif record.erased_at is not None and record.idempotency_key is None:
                self._erased_at.add(record.call_id, record.erased_at)
                self._account_of(record).tombstones[record.call_id] = None
        for settled_at, record in sorted(
            (
                (call.record.settled_at, call.record)
                for call in by_rank
                if call.record.settled_at is not None
            ),
            key=lambda settled: settled[0],
        ):
            if record.state is CallState.SETTLED:
                self._settled_at.add(record.call_id, settled_at)
            if record.idempotency_key is not None:
                self._keyed_at.add(record.call_id, settled_at)
        return changes

    def _add_instead(self, record: CallRecord, changes: Changes) -> None:
        """Add a record, in place of those that have its names."""
        earlier = self.find(record.session_id, record.request_id)
        if earlier is not None:
            self._leave_session(earlier, changes)
        if record.idempotency_key is not None:
            earlier = self.find_by_key(record.principal, record.idempotency_key)
            if earlier is not None:
                self._forget(earlier.call_id, changes)
        self._add(record)

    def _add(self, record: CallRecord) -> None:
        self._records[record.call_id] = record
        if record.session_id:
            self._by_session[record.session_id][record.request_id] = record.call_id
        if record.idempotency_key is not None:
            self._by_key[record.principal][record.idempotency_key] = record.call_id

    def _trim(
        self, session_id: str, bounds: SessionBounds, now: float, changes: Changes
    ) -> Changes:
        """Erase and forget a session's oldest while it has too many, or too large ones."""
        holdings = self._of_session.get(session_id, Holdings())
        while (
            len(holdings.sent) > bounds.max_results or holdings.sent_bytes > bounds.max_result_bytes
        ):
            self._erase(next(iter(holdings.sent)), "expired", now, changes)
        while len(holdings.tombstones) > bounds.max_tombstones:
            self._forget(next(iter(holdings.tombstones)), changes)
        return changes

    def _account_of(self, record: CallRecord) -> Holdings:
        """Return where a record's result counts: in its session, or after that by its key."""
        of_session = self._by_session.get(record.session_id, {})
        if of_session.get(record.request_id) == record.call_id:
            return self._of_session[record.session_id]
        return self._of_principal[record.principal]

    def _leave_session(self, record: CallRecord, changes: Changes) -> None:
        if record.idempotency_key is None:
            self._forget(record.call_id, changes)
            return
        size_bytes = self._account_of(record).forget(record.call_id)
        self._by_session[record.session_id].pop(record.request_id)
        if record.call_id in self._settled_at:
            self._account_of(record).add_result(record.call_id, size_bytes)
        self._drop_what_is_empty(record)
        changes.left.append(record.call_id)

    def _erase(self, call_id: str, because: ErasedBecause, now: float, changes: Changes) -> None:
        record = self._records[call_id] = msgspec.structs.replace(
            self._records[call_id],
            state=CallState.ERASED,
            result_bytes=0,
            erased_because=because,
            erased_at=now,
        )
        self._settled_at.discard(call_id)
        account = self._account_of(record)
        self._count_bytes(record, -account.forget(call_id))
        if record.idempotency_key is None:
            self._erased_at.add(call_id, now)
            account.tombstones[call_id] = None
        self._drop_what_is_empty(record)
        changes.erased.append(record)

    def _forget(self, call_id: str, changes: Changes) -> None:
        record = self._records.pop(call_id)
        for times in (self._settled_at, self._erased_at, self._keyed_at):
            times.discard(call_id)
        self._count_bytes(record, -self._account_of(record).forget(call_id))
        of_session = self._by_session.get(record.session_id, {})
        if of_session.get(record.request_id) == call_id:
            del of_session[record.request_id]
        if record.idempotency_key is not None:
            del self._by_key[record.principal][record.idempotency_key]
        self._drop_what_is_empty(record)
        changes.forgotten.append(call_id)

    def _count_bytes(self, record: CallRecord, by: int) -> None:
        self.result_bytes += by
        self._bytes_of_principal[record.principal] += by
        if not self._bytes_of_principal[record.principal]:
            del self._bytes_of_principal[record.principal]

    def _drop_what_is_empty(self, record: CallRecord) -> None:
        for accounts, name in (
            (self._of_session, record.session_id),
            (self._of_principal, record.principal),
        ):
            if name in accounts and accounts[name].is_empty:
                del accounts[name]
        for names, name in (
            (self._by_session, record.session_id),
            (self._by_key, record.principal),
        ):
            if not names.get(name, True):
                del names[name]
