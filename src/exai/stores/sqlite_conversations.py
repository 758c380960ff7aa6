"""Conversations in SQLite: they outlive the daemon. Behaves as `memory_conversations` does."""

import sqlite3
from itertools import takewhile
from typing import Any, TypeVar

from exai.core.conversation_store import (
    Conversation,
    ConversationBounds,
    ConversationStatistics,
    ConversationStore,
    Turn,
)
from exai.stores.sqlite_database import Operation, SqliteDatabase

T = TypeVar("T")

_FORGOTTEN_PER_TURN = 100

_TOTALS = "SELECT conversation_count, text_bytes FROM totals"
_NEXT_RANK = "(SELECT last_rank + 1 FROM totals)"
_BEGIN = f"""
    INSERT INTO conversations
        (principal, conversation_id, model, system_prompt, text_bytes, last_turn_at, rank)
    VALUES (?, ?, ?, ?, ?, ?, {_NEXT_RANK})
    ON CONFLICT (principal, conversation_id) DO NOTHING
"""
_ADD_TURN = """
    INSERT INTO turns (conversation, call_id, at, text_bytes, prompt, reply)
    VALUES (?, ?, ?, ?, ?, ?)
"""
_FIND = """
    SELECT number, text_bytes, model, system_prompt FROM conversations
    WHERE principal = ? AND conversation_id = ?
"""
_TURNS = "SELECT call_id, at, prompt, reply FROM turns WHERE conversation = ? ORDER BY number"
_TURN_OF_CALL = "SELECT 1 FROM turns WHERE conversation = ? AND call_id = ?"
_GROW = f"""
    UPDATE conversations
    SET text_bytes = text_bytes + ?, last_turn_at = ?, rank = {_NEXT_RANK} WHERE number = ?
"""
_SHRINK = "UPDATE conversations SET text_bytes = text_bytes - ? WHERE number = ?"
_OLDEST_TURNS = """
    SELECT number, text_bytes FROM turns
    WHERE conversation = ?
        AND number < (SELECT max(number) FROM turns WHERE conversation = ?)
    ORDER BY number
"""
_DROP_TURNS = "DELETE FROM turns WHERE conversation = ? AND number <= ?"
_USAGE = "SELECT conversation_count, text_bytes FROM conversation_usage WHERE principal = ?"
_OLDEST_OF_PRINCIPAL = """
    SELECT number, text_bytes FROM conversations WHERE principal = ? ORDER BY rank
"""
_OLDEST = f"""
    SELECT number, last_turn_at FROM conversations ORDER BY rank LIMIT {_FORGOTTEN_PER_TURN}
"""
_FORGET = "DELETE FROM conversations WHERE number = ?"


class SqliteConversationStore(ConversationStore):
    """`ConversationStore` over a database that it shares; each method is one transaction.

    Its statistics are as of the last change that its caller was told of.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._statistics = ConversationStatistics(0, 0)

    async def load(self) -> None:
        """Learn how much there is; to be done before anything else."""
        await self._change(lambda connection: None)

    async def begin(self, conversation: Conversation, bounds: ConversationBounds) -> None:
        """Keep a new conversation unless it is known."""
        principal, model = conversation.principal, conversation.model
        system_prompt = _encoded(conversation.system_prompt or "")
        turns = [_TurnRow(turn) for turn in conversation.turns]
        size_bytes = len(system_prompt) + len(_encoded(model or ""))
        size_bytes += sum(turn.size_bytes for turn in turns)
        values = (
            principal,
            conversation.conversation_id,
            model,
            None if conversation.system_prompt is None else system_prompt,
            size_bytes,
            turns[-1].at,
        )

        def begin(connection: sqlite3.Connection) -> None:
            begun = connection.execute(_BEGIN, values)
            if begun.rowcount:
                number = begun.lastrowid or 0
                connection.executemany(_ADD_TURN, [turn.values_in(number) for turn in turns])
                _make_room(connection, number, principal, size_bytes, bounds)

        await self._change(begin, size_bytes)

    async def append(
        self, principal: str, conversation_id: str, turn: Turn, bounds: ConversationBounds
    ) -> bool:
        """Add a turn unless its call added one before."""
        row = _TurnRow(turn)

        def append(connection: sqlite3.Connection) -> bool:
            known = connection.execute(_FIND, (principal, conversation_id)).fetchone()
            if known is None:
                return False
            number, text_bytes, *_ = known
            if connection.execute(_TURN_OF_CALL, (number, turn.call_id)).fetchone() is None:
                connection.execute(_ADD_TURN, row.values_in(number))
                connection.execute(_GROW, (row.size_bytes, turn.at, number))
                _make_room(connection, number, principal, text_bytes + row.size_bytes, bounds)
            return True

        return await self._change(append, row.size_bytes)

    async def find(self, principal: str, conversation_id: str) -> Conversation | None:
        """Look it up by principal and id."""

        def find(connection: sqlite3.Connection) -> Conversation | None:
            known = connection.execute(_FIND, (principal, conversation_id)).fetchone()
            if known is None:
                return None
            number, _, model, system_prompt = known
            turns = tuple(_turn_in(row) for row in connection.execute(_TURNS, (number,)))
            begun_with = None if system_prompt is None else _decoded(system_prompt)
            return Conversation(conversation_id, principal, turns, begun_with, model)

        return await self._database.submit(find)

    async def expire(self, now: float, ttl_s: float) -> int:
        """Forget from the oldest on, up to the first that is young enough."""

        def expire(connection: sqlite3.Connection) -> int:
            oldest = connection.execute(_OLDEST).fetchall()
            expired = takewhile(lambda row: row[1] + ttl_s <= now, oldest)
            return _forget(connection, [number for number, _ in expired])

        total_count = expired_count = await self._change(expire)
        while expired_count == _FORGOTTEN_PER_TURN:
            expired_count = await self._change(expire)
            total_count += expired_count
        return total_count

    def statistics(self) -> ConversationStatistics:
        """Return the numbers now."""
        return self._statistics

    async def _change(self, operation: Operation[T], size_bytes: int = 0) -> T:
        """Have an operation carried out, and learn how much there is after it."""
        answer, self._statistics = await self._database.submit(
            lambda connection: (operation(connection), _statistics_in(connection)), size_bytes
        )
        return answer


def _statistics_in(connection: sqlite3.Connection) -> ConversationStatistics:
    return ConversationStatistics(*connection.execute(_TOTALS).fetchone())


class _TurnRow:
    """A turn as it is stored."""

    def __init__(self, turn: Turn) -> None:
        self.at = turn.at
        self._call_id = turn.call_id
        self._prompt, self._reply = _encoded(turn.prompt), _encoded(turn.reply)
        self.size_bytes = len(_encoded(turn.call_id)) + len(self._prompt) + len(self._reply)

    def values_in(self, conversation: int) -> tuple[object, ...]:
        return (
            conversation,
            self._call_id,
            self.at,
            self.size_bytes,
            self._prompt,
            self._reply,
        )


def _make_room(
    connection: sqlite3.Connection,
    number: int,
    principal: str,
    text_bytes: int,
    bounds: ConversationBounds,
) -> None:
    """Drop a conversation's oldest turns, then its principal's oldest others."""
    if text_bytes > bounds.max_bytes:
        _drop_turns(connection, number, text_bytes - bounds.max_bytes)
    count, total_bytes = connection.execute(_USAGE, (principal,)).fetchone()
    forgotten, by_age = [], connection.execute(_OLDEST_OF_PRINCIPAL, (principal,))
    while count > 1 and (
        count > bounds.principal_max_count or total_bytes > bounds.principal_max_bytes
    ):
        oldest, size_bytes = by_age.fetchone()
        forgotten.append(oldest)
        count -= 1
        total_bytes -= size_bytes
    _forget(connection, forgotten)


def _drop_turns(connection: sqlite3.Connection, number: int, excess_bytes: int) -> None:
    """Drop the oldest turns until no excess is left, but never the newest."""
    dropped_bytes, last = 0, 0
    for turn, size_bytes in connection.execute(_OLDEST_TURNS, (number, number)):
        if dropped_bytes >= excess_bytes:
            break
        dropped_bytes += size_bytes
        last = turn
    connection.execute(_DROP_TURNS, (number, last))
    connection.execute(_SHRINK, (dropped_bytes, number))


def _forget(connection: sqlite3.Connection, numbers: list[int]) -> int:
    connection.executemany(_FORGET, [(number,) for number in numbers])
    return len(numbers)


def _turn_in(row: tuple[Any, ...]) -> Turn:
    call_id, at, prompt, reply = row
    return Turn(call_id, _decoded(prompt), _decoded(reply), at)


def _encoded(text: str) -> bytes:
    # Any text, half of a surrogate pair too, which strict UTF-8 refuses.
    return text.encode("utf-8", "surrogatepass")


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")
