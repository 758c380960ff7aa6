"""SQLite answers as memory does, whatever happened before, and also after it was closed."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exai.core.call_store import CallRecord, CallStore, SessionBounds, Settlement
from exai.core.conversation_store import Conversation, ConversationBounds, ConversationStore, Turn
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed, Failed, Outcome, text_block
from exai.stores.memory_conversations import MemoryConversationStore
from exai.stores.memory_store import MemoryCallStore
from exai.stores.sqlite_conversations import SqliteConversationStore
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import open_database
from exai.stores.sqlite_store import SqliteCallStore

STEPS = 1500
STEPS_UNTIL_ALL_IS_COMPARED = 30
STEPS_UNTIL_IT_IS_REOPENED = 200
SESSIONS, PRINCIPALS, KEYS = ["s0", "s1", "s2"], ["ann", "bob"], ["k0", "k1", "k2", "k3"]
REQUESTS = [f"r{n}" for n in range(12)]
RESULT_TTL_S, KEY_TTL_S = 60.0, 200.0

Step = Callable[[Any], Awaitable[Any]]
"""One event, as it happens to a store."""


class Calls:
    """What may happen to a ledger, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now = 1000.0
        self._accepted_count = 0
        self._events = {
            self._accept: 30,
            self._start: 10,
            self._settle: 25,
            self._acknowledge: 8,
            self._mark_sent: 12,
            self._forget_sent: 1,
            self._trim: 8,
            self._trim_keyed: 3,
            self._expire: 3,
            self._end_session: 1,
        }

    def next_step(self) -> Step:
        self._now += self._chance.uniform(0.01, 2.0)
        (event,) = self._chance.choices(list(self._events), list(self._events.values()))
        return event()

    def _accept(self) -> Step:
        self._accepted_count += 1
        new = CallRecord(
            call_id=f"c{self._accepted_count}",
            session_id=self._session(),
            principal=self._chance.choice(PRINCIPALS),
            request_id=self._chance.choice(REQUESTS),
            tool="echo",
            arguments_digest=self._chance.randbytes(32),
            accepted_at=self._now,
            timeout_s=60.0,
            idempotency_key=self._chance.choice([None, None, *KEYS]),
        )
        return lambda store: store.accept(new)

    def _start(self) -> Step:
        call_id, attempt = self._call(), self._chance.choice([1, 1, 2])
        return lambda store: store.start(call_id, "boot", attempt)

    def _settle(self) -> Step:
        call_id, now, text = self._call(), self._now, "é" * self._chance.randrange(200)
        done, failed = Completed([text_block(text)]), Failed(ToolFailed("no").describe())
        outcomes: list[Outcome] = [done, done, failed]
        settlement = Settlement(self._chance.choice(outcomes), 0.25, 1.5)
        return lambda store: store.settle(call_id, settlement, now)

    def _acknowledge(self) -> Step:
        session, requests, now = self._session(), self._requests(), self._now
        return lambda store: store.acknowledge(session, requests, now)

    def _mark_sent(self) -> Step:
        session, requests = self._session(), self._requests()
        return lambda store: store.mark_sent(session, requests)

    def _forget_sent(self) -> Step:
        session = self._session()
        return lambda store: store.forget_sent(session)

    def _trim(self) -> Step:
        session, now, chance = self._session(), self._now, self._chance
        bounds = SessionBounds(chance.randrange(4), self._size(), chance.randrange(4))
        return lambda store: store.trim(session, bounds, now)

    def _trim_keyed(self) -> Step:
        principal, most_bytes, now = self._chance.choice(PRINCIPALS), self._size(), self._now
        return lambda store: store.trim_keyed(principal, most_bytes, now)

    def _expire(self) -> Step:
        now = self._now
        return lambda store: store.expire(now, RESULT_TTL_S, KEY_TTL_S)

    def _end_session(self) -> Step:
        session = self._session()
        return lambda store: store.end_session(session)

    def _session(self) -> str:
        return self._chance.choice(SESSIONS)

    def _requests(self) -> list[str]:
        return self._chance.choices(REQUESTS, k=self._chance.randrange(4))

    def _size(self) -> int:
        return self._chance.randrange(1000)

    def _call(self) -> str:
        newest = self._accepted_count
        return f"c{self._chance.randint(max(0, newest - 10), newest)}"


@pytest.mark.parametrize("seed", range(4))
async def test_ledgers_agree(tmp_path: Path, seed: int) -> None:
    calls, memory, sqlite = Calls(random.Random(seed)), MemoryCallStore(), open_ledger(tmp_path)
    for n in range(1, STEPS + 1):
        step = calls.next_step()
        assert unplaced(await step(memory)) == unplaced(await step(sqlite))
        assert memory.statistics() == sqlite.statistics()
        if n % STEPS_UNTIL_IT_IS_REOPENED == 0:
            await sqlite.close()
            sqlite = open_ledger(tmp_path)
            assert memory.statistics() == sqlite.statistics()
        if n % STEPS_UNTIL_ALL_IS_COMPARED == 0:
            assert await all_of_calls(memory) == await all_of_calls(sqlite)
    await sqlite.close()


def open_ledger(directory: Path) -> CallStore:
    return SqliteCallStore(SqliteDatabase(open_database(directory)))


async def all_of_calls(store: CallStore) -> list[Any]:
    """Ask everything that can be asked."""
    answers: list[Any] = [unplaced(left) for left in await store.unsettled()]
    for session in SESSIONS:
        answers += [await store.owed(session), await store.usage(session)]
        answers += [await store.find(session, request) for request in REQUESTS]
    for principal in PRINCIPALS:
        answers.append(await store.key_count(principal))
        answers += [unplaced(await store.find_by_key(principal, key)) for key in KEYS]
    return answers


def unplaced(answer: Any) -> Any:
    """Leave out in which session a call was made: it may have ended."""
    if isinstance(answer, CallRecord):
        return msgspec.structs.replace(answer, session_id="")
    return answer


class Talks:
    """What may happen to a store of conversations, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._now = 1000.0

    def next_step(self) -> Step:
        chance = self._chance
        self._now += chance.uniform(0.01, 2.0)
        now, principal, name = self._now, chance.choice(PRINCIPALS), chance.choice(SESSIONS)
        turn = Turn(f"c{chance.randrange(40)}", "é\ud83d" * chance.randrange(9), "r", now)
        bounds = ConversationBounds(
            max_bytes=chance.randrange(20, 200),
            principal_max_count=chance.choice([1, 2, 3, 3, 3]),
            principal_max_bytes=chance.randrange(50, 500),
        )
        if chance.random() < 0.2:
            begun = Conversation(
                name, principal, (turn,), chance.choice([None, "", "Be brief."]), "m"
            )
            return lambda store: store.begin(begun, bounds)
        if chance.random() < 0.05:
            return lambda store: store.expire(now, 20.0)
        return lambda store: store.append(principal, name, turn, bounds)


@pytest.mark.parametrize("seed", range(4))
async def test_stores_of_conversations_agree(tmp_path: Path, seed: int) -> None:
    talks, memory, sqlite = (
        Talks(random.Random(seed)),
        MemoryConversationStore(),
        open_talks(tmp_path),
    )
    for n in range(1, STEPS + 1):
        step = talks.next_step()
        assert await step(memory) == await step(sqlite)
        assert memory.statistics() == sqlite.statistics()
        if n % STEPS_UNTIL_IT_IS_REOPENED == 0:
            await sqlite.close()
            sqlite = open_talks(tmp_path)
        if n % STEPS_UNTIL_ALL_IS_COMPARED == 0:
            assert await all_of_talks(memory) == await all_of_talks(sqlite)
    await sqlite.close()


def open_talks(directory: Path) -> ConversationStore:
    return SqliteConversationStore(SqliteDatabase(open_database(directory)))


async def all_of_talks(store: ConversationStore) -> list[Conversation | None]:
    return [await store.find(owner, name) for owner in PRINCIPALS for name in SESSIONS]


@pytest.mark.parametrize("seed", range(4))
async def test_ledgers_agree_where_nobody_waits_before_asking_more(
    tmp_path: Path, seed: int
) -> None:
    calls, memory, sqlite = Calls(random.Random(seed)), MemoryCallStore(), open_ledger(tmp_path)
    steps = [calls.next_step() for _ in range(STEPS)]
    expected = [unplaced(await step(memory)) for step in steps]
    answers = await asyncio.gather(*(step(sqlite) for step in steps))
    assert [unplaced(answer) for answer in answers] == expected
    assert memory.statistics() == sqlite.statistics()
    await sqlite.close()
