"""SQLite answers as memory does, whatever happened before, and also after it was closed."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from exai.core.call_store import (
    CallRecord,
    CallState,
    CallStore,
    FoundCalls,
    SessionBounds,
    Settlement,
)
from exai.core.conversation_store import Conversation, ConversationBounds, ConversationStore, Turn
from exai.core.errors import ToolFailed
from exai.core.outcomes import Completed, ExecutionFacts, Failed, Outcome, text_block
from exai.core.session_store import SessionRecord, SessionStore
from exai.stores.stores import Stores
from tests.contracts.twins import AMPLE, TWINS

STEPS_UNTIL_ALL_IS_COMPARED = 30
STEPS_UNTIL_IT_IS_REOPENED = 200
REOPENINGS = 8
STEPS = STEPS_UNTIL_IT_IS_REOPENED * REOPENINGS
SESSIONS, PRINCIPALS, KEYS = ["s0", "s1", "s2"], ["ann", "bob"], ["k0", "k1", "k2", "k3"]
REQUESTS = [f"r{n}" for n in range(12)]
RESULT_TTL_S, KEY_TTL_S = 60.0, 200.0

Step = Callable[[Any], Awaitable[Any]]
"""One event, as it happens to a store."""


class Calls:
    """What may happen to a ledger, by chance."""

    def __init__(self, chance: random.Random, *, is_waited_for: bool = True) -> None:
        self._chance = chance
        self._now = 1000.0
        self._accepted_count = 0
        self._events = {
            self._accept: 26,
            self._accept_as_running: 6,
            self._start: 10,
            self._settle: 25,
            self._acknowledge: 8,
            self._mark_sent: 12,
            self._forget_sent: 1,
            self._trim: 8,
            self._trim_keyed: 3,
            self._expire: 3,
            self._end_session: 1,
            self._know: 20,
            # May look after what was asked for later, where nobody waits.
            self._find: 10 if is_waited_for else 0,
            self._find_by_key: 3,
            self._find_all: 4,
            self._find_call: 10 if is_waited_for else 0,
            self._owed: 3,
            self._unsettled: 1,
        }

    def next_step(self) -> Step:
        self._now += self._chance.uniform(0.01, 2.0)
        (event,) = self._chance.choices(list(self._events), list(self._events.values()))
        return event()

    def _accept(self) -> Step:
        new = self._new()
        return lambda store: store.accept(new)

    def _accept_as_running(self) -> Step:
        new, is_idempotent = self._new(), self._chance.random() < 0.5
        running = msgspec.structs.replace(
            new,
            state=CallState.RUNNING,
            owner="boot",
            attempt=1,
            started_at=self._now,
            idempotent=is_idempotent,
            request=new.request if is_idempotent else None,
        )
        return lambda store: store.accept(running)

    def _new(self) -> CallRecord:
        self._accepted_count += 1
        return CallRecord(
            call_id=f"c{self._accepted_count}",
            session_id=self._session(),
            principal=self._chance.choice(PRINCIPALS),
            request_id=self._chance.choice(REQUESTS),
            tool="echo",
            arguments_digest=self._chance.randbytes(32),
            accepted_at=round(self._now),
            timeout_s=60.0,
            idempotency_key=self._chance.choice([None, None, *KEYS]),
            idempotent=self._chance.random() < 0.5,
            follows=self._chance.choice([None, None, self._call()]),
            request=self._chance.choice([None, b"", b"{}", b"{}" * 3000]),
        )

    def _start(self) -> Step:
        call_id, attempt, now = self._call(), self._chance.choice([1, 1, 2]), self._now
        return lambda store: store.start(call_id, f"boot-{attempt}", attempt, now)

    def _settle(self) -> Step:
        call_id, now, text = self._call(), self._now, "é" * self._chance.randrange(200)
        facts = self._chance.choice([ExecutionFacts(), ExecutionFacts(2, "openai", "gpt-9")])
        done = Completed([text_block(text)], facts=facts)
        failed = Failed(ToolFailed("no").describe(), facts=facts)
        outcomes: list[Outcome] = [done, done, failed]
        is_joined, is_cached = self._chance.choice([(False, False), (True, False), (False, True)])
        settlement = Settlement(self._chance.choice(outcomes), 0.25, 1.5, is_joined, is_cached)
        return lambda store: store.settle(call_id, settlement, now)

    def _acknowledge(self) -> Step:
        session, requests, now = self._session(), self._requests(), self._now
        return lambda store: store.acknowledge(session, requests, AMPLE, now)

    def _mark_sent(self) -> Step:
        session, requests, now = self._session(), self._requests(), self._now
        return lambda store: store.mark_sent(session, requests, AMPLE, now)

    def _forget_sent(self) -> Step:
        session = self._session()
        return lambda store: store.forget_sent(session)

    def _trim(self) -> Step:
        session, now, chance = self._session(), self._now, self._chance
        bounds = SessionBounds(chance.randrange(4), self._size(), chance.randrange(4))
        return lambda store: store.mark_sent(session, [], bounds, now)

    def _trim_keyed(self) -> Step:
        principal, most_bytes, now = self._chance.choice(PRINCIPALS), self._size(), self._now
        return lambda store: store.trim_keyed(principal, most_bytes, now)

    def _expire(self) -> Step:
        now = self._now
        return lambda store: store.expire(now, RESULT_TTL_S, KEY_TTL_S)

    def _end_session(self) -> Step:
        session = self._session()
        return lambda store: store.end_session(session)

    def _know(self) -> Step:
        session, request = self._session(), self._chance.choice(REQUESTS)

        async def know(store: CallStore) -> Surely:
            return Surely(await store.knows(session, request))

        return know

    def _find(self) -> Step:
        session, request = self._session(), self._chance.choice(REQUESTS)
        return lambda store: store.find(session, request)

    def _find_by_key(self) -> Step:
        principal, key = self._chance.choice(PRINCIPALS), self._chance.choice(KEYS)
        return lambda store: store.find_by_key(principal, key)

    def _find_all(self) -> Step:
        principal = self._chance.choice(PRINCIPALS)
        name = self._chance.choice([self._call(), *REQUESTS])
        limit = self._chance.choice([0, 1, 2, 20])
        return lambda store: store.find_all(principal, name, limit)

    def _find_call(self) -> Step:
        call_id = self._call()
        return lambda store: store.find_call(call_id)

    def _owed(self) -> Step:
        session = self._session()
        return lambda store: store.owed(session)

    def _unsettled(self) -> Step:
        return lambda store: store.unsettled()

    def _session(self) -> str:
        return self._chance.choice(SESSIONS)

    def _requests(self) -> list[str]:
        return self._chance.choices(REQUESTS, k=self._chance.randrange(4))

    def _size(self) -> int:
        return self._chance.randrange(1000)

    def _call(self) -> str:
        newest = self._accepted_count
        return f"c{self._chance.randint(max(0, newest - 10), newest)}"


class Surely(msgspec.Struct, frozen=True):
    """An answer that may be yes where no is right, and never no where yes is right."""

    is_so: bool


def agree(expected: Any, answer: Any) -> bool:
    """Tell whether an answer is as good as memory's."""
    if isinstance(expected, Surely):
        return bool(answer.is_so) or not expected.is_so
    if isinstance(expected, list):
        return len(expected) == len(answer) and all(map(agree, expected, answer))
    if isinstance(expected, FoundCalls):
        return expected.more_count == answer.more_count and agree(expected.records, answer.records)
    return bool(unplaced(expected) == unplaced(answer))


def unplaced(answer: Any) -> Any:
    """Leave out in which session a call was made, which may have ended, and when its result was
    sent, which a restart may forget.
    """
    if isinstance(answer, CallRecord):
        return msgspec.structs.replace(answer, session_id="", sent_at=None)
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


class Visits:
    """What may happen to a store of sessions, by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def next_step(self) -> Step:
        name = f"s{self._chance.randrange(20)}"
        if self._chance.random() < 0.4:
            return lambda store: store.forget(name)
        kept = SessionRecord(name, self._chance.choice(PRINCIPALS), self._chance.randbytes(8))
        return lambda store: store.keep(kept)


async def all_of_calls(store: CallStore) -> list[Any]:
    """Ask everything that can be asked."""
    answers: list[Any] = [store.statistics(), await store.unsettled()]
    for session in SESSIONS:
        answers += [await store.owed(session), await store.usage(session)]
        for request in REQUESTS:
            answers += [Surely(await store.knows(session, request))]
            answers += [await store.find(session, request)]
    for principal in PRINCIPALS:
        answers.append(await store.key_count(principal))
        answers += [await store.find_by_key(principal, key) for key in KEYS]
        answers += [await store.find_all(principal, request, 20) for request in REQUESTS]
    return answers


async def all_of_talks(store: ConversationStore) -> list[Any]:
    """Ask everything that can be asked."""
    found = [await store.find(owner, name) for owner in PRINCIPALS for name in SESSIONS]
    return [store.statistics(), *found]


async def all_of_visits(store: SessionStore) -> list[Any]:
    """Ask everything that can be asked."""
    return list(await store.load())


@pytest.mark.parametrize("seed", range(4))
async def test_ledgers_agree(tmp_path: Path, seed: int) -> None:
    await compare(tmp_path, Calls(random.Random(seed)), lambda of: of.calls, all_of_calls)


@pytest.mark.parametrize("seed", range(4))
async def test_stores_of_conversations_agree(tmp_path: Path, seed: int) -> None:
    await compare(tmp_path, Talks(random.Random(seed)), lambda of: of.conversations, all_of_talks)


@pytest.mark.parametrize("seed", range(2))
async def test_stores_of_sessions_agree(tmp_path: Path, seed: int) -> None:
    await compare(tmp_path, Visits(random.Random(seed)), lambda of: of.sessions, all_of_visits)


async def compare(
    directory: Path,
    events: Calls | Talks | Visits,
    choose: Callable[[Stores], Any],
    ask_all: Callable[[Any], Awaitable[list[Any]]],
) -> None:
    """Let the same happen to both twins, while the one in SQLite is closed and opened again."""
    memory = choose(TWINS["memory"](directory))
    for _ in range(REOPENINGS):
        async with TWINS["sqlite"](directory) as stores:
            sqlite = choose(stores)
            for n in range(STEPS_UNTIL_IT_IS_REOPENED):
                step = events.next_step()
                assert agree(await step(memory), await step(sqlite))
                if n % STEPS_UNTIL_ALL_IS_COMPARED == 0:
                    assert agree(await ask_all(memory), await ask_all(sqlite))
        if isinstance(memory, CallStore):
            await forget_all_sent(memory)
    async with TWINS["sqlite"](directory) as stores:
        assert agree(await ask_all(memory), await ask_all(choose(stores)))


async def forget_all_sent(store: CallStore) -> None:
    """Let a ledger that was not closed know no more than one that was."""
    for session in SESSIONS:
        await store.forget_sent(session)


@pytest.mark.parametrize("most_at_once", [2, 10, STEPS], ids="{} at once".format)
@pytest.mark.parametrize("seed", range(4))
async def test_ledgers_agree_where_nobody_waits_before_asking_more(
    tmp_path: Path, seed: int, most_at_once: int
) -> None:
    calls, memory = Calls(random.Random(seed), is_waited_for=False), TWINS["memory"](tmp_path).calls
    steps = [calls.next_step() for _ in range(STEPS)]
    expected = [await step(memory) for step in steps]
    asked: list[asyncio.Task[Any]] = []
    async with TWINS["sqlite"](tmp_path) as stores:
        async with asyncio.TaskGroup() as tasks:
            for n, step in enumerate(steps):
                if n >= most_at_once:
                    await asked[n - most_at_once]
                asked.append(tasks.create_task(ask(step, stores.calls)))
        for n, (answer, task) in enumerate(zip(expected, asked, strict=True)):
            assert agree(answer, task.result()), n
        assert agree(await all_of_calls(memory), await all_of_calls(stores.calls))


async def ask(step: Step, store: CallStore) -> Any:
    return await step(store)
