"""Every store of conversations keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exai.core.conversation_store import (
    Conversation,
    ConversationBounds,
    ConversationStore,
    Turn,
)
from exai.stores.stores import Stores
from tests.contracts.twins import TWINS

ROOMY = ConversationBounds(max_bytes=10_000, principal_max_count=100, principal_max_bytes=10**6)
TTL_S = 100.0


@pytest.fixture(params=list(TWINS.values()), ids=list(TWINS))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ConversationStore]:
    async with request.param(tmp_path) as stores:
        yield stores.conversations


def turn(n: int, at: float = 1000.0) -> Turn:
    return Turn(f"c{n}", f"p{n}", f"r{n}", at)


def talk(name: str, *turns: Turn, principal: str = "ann", model: str | None = "m") -> Conversation:
    return Conversation(name, principal, turns or (turn(0),), "Be brief.", model)


async def test_what_was_said_is_kept_in_order(store: ConversationStore) -> None:
    await store.begin(talk("t"), ROOMY)
    for n in (1, 2):
        assert await store.append("ann", "t", turn(n), ROOMY)
    assert await store.find("ann", "t") == talk("t", turn(0), turn(1), turn(2))


async def test_a_turn_is_kept_once(store: ConversationStore) -> None:
    for _ in range(2):
        await store.begin(talk("t"), ROOMY)
        assert await store.append("ann", "t", turn(1), ROOMY)
    assert await store.find("ann", "t") == talk("t", turn(0), turn(1))


async def test_anothers_conversation_is_none(store: ConversationStore) -> None:
    await store.begin(talk("t"), ROOMY)
    assert await store.find("bob", "t") is None
    assert await store.append("bob", "t", turn(1), ROOMY) is False
    await store.begin(talk("t", turn(5), principal="bob"), ROOMY)
    assert await store.find("ann", "t") == talk("t")


async def test_the_oldest_turns_make_room_and_never_the_newest(store: ConversationStore) -> None:
    narrow = msgspec.structs.replace(ROOMY, max_bytes=len("Be brief.m") + 2 * len("c0p0r0"))
    await store.begin(talk("t"), narrow)
    for n in (1, 2):
        await store.append("ann", "t", turn(n), narrow)
    assert await store.find("ann", "t") == talk("t", turn(1), turn(2))
    huge = Turn("c9", "p" * 1000, "r", 1000.0)
    await store.append("ann", "t", huge, narrow)
    assert await store.find("ann", "t") == talk("t", huge)
    assert store.statistics().text_bytes == len("Be brief.m") + 1003


async def test_the_conversation_touched_longest_ago_makes_room(store: ConversationStore) -> None:
    two = msgspec.structs.replace(ROOMY, principal_max_count=2)
    for name in ("a", "b"):
        await store.begin(talk(name), two)
    await store.append("ann", "a", turn(1), two)
    await store.begin(talk("x", principal="bob"), two)
    await store.begin(talk("c"), two)
    known = [await store.find("ann", name) is not None for name in ("a", "b", "c")]
    assert known == [True, False, True]
    small = msgspec.structs.replace(ROOMY, principal_max_bytes=1)
    await store.append("ann", "a", turn(2), small)
    assert [await store.find("ann", name) is not None for name in ("a", "c")] == [True, False]
    assert await store.find("bob", "x") is not None


async def test_a_conversation_expires_after_its_last_turn(store: ConversationStore) -> None:
    await store.begin(talk("a", turn(0, at=1000.0)), ROOMY)
    await store.begin(talk("b", turn(1, at=1010.0)), ROOMY)
    await store.append("ann", "a", turn(2, at=1020.0), ROOMY)
    assert await store.expire(1109.9, TTL_S) == 0
    assert await store.expire(1110.0, TTL_S) == 1
    assert await store.find("ann", "b") is None
    assert await store.expire(1e9, TTL_S) == 1
    assert (store.statistics().conversation_count, store.statistics().text_bytes) == (0, 0)
    assert await store.append("ann", "a", turn(3), ROOMY) is False


async def test_hundreds_of_conversations_expire(store: ConversationStore) -> None:
    for n in range(250):
        await store.begin(talk(f"t{n}", principal=f"p{n % 10}"), ROOMY)
    assert await store.expire(1e9, TTL_S) == 250
    assert store.statistics().conversation_count == 0


async def test_bytes_are_counted_whatever_the_text(store: ConversationStore) -> None:
    odd = Turn("c1", "é", "half of a pair: \ud83d", 1000.0)
    await store.begin(Conversation("t", "ann", (odd,)), ROOMY)
    assert store.statistics().text_bytes == 2 + 2 + len("half of a pair: ") + 3
    assert await store.find("ann", "t") == Conversation("t", "ann", (odd,))


class NaiveStore:
    """Conversations as a list in the order of their last turns."""

    def __init__(self) -> None:
        self.talks: list[Conversation] = []

    def find(self, principal: str, name: str) -> Conversation | None:
        same = (t for t in self.talks if (t.principal, t.conversation_id) == (principal, name))
        return next(same, None)

    def begin(self, new: Conversation, bounds: ConversationBounds) -> None:
        if self.find(new.principal, new.conversation_id) is None:
            self._put(new, bounds)

    def append(self, principal: str, name: str, new: Turn, bounds: ConversationBounds) -> bool:
        known = self.find(principal, name)
        if known is None:
            return False
        if new.call_id not in {turn.call_id for turn in known.turns}:
            self.talks.remove(known)
            self._put(msgspec.structs.replace(known, turns=(*known.turns, new)), bounds)
        return True

    def expire(self, now: float, ttl_s: float) -> int:
        before = len(self.talks)
        self.talks = [t for t in self.talks if t.turns[-1].at + ttl_s > now]
        return before - len(self.talks)

    def size(self, talks: list[Conversation]) -> int:
        texts = [text for t in talks for text in (t.system_prompt or "", t.model or "")]
        texts += [text for t in talks for x in t.turns for text in (x.call_id, x.prompt, x.reply)]
        return sum(len(text.encode()) for text in texts)

    def _put(self, new: Conversation, bounds: ConversationBounds) -> None:
        while self.size([new]) > bounds.max_bytes and len(new.turns) > 1:
            new = msgspec.structs.replace(new, turns=new.turns[1:])
        self.talks.append(new)
        while True:
            owned = [t for t in self.talks if t.principal == new.principal]
            too_many = len(owned) > bounds.principal_max_count
            if len(owned) == 1 or not (too_many or self.size(owned) > bounds.principal_max_bytes):
                return
            self.talks.remove(owned[0])


NAMES = st.sampled_from(["a", "b", "c"])
PRINCIPALS = st.sampled_from(["ann", "bob"])
STEPS = st.one_of(
    st.tuples(st.just("begin"), PRINCIPALS, NAMES),
    st.tuples(st.just("append"), PRINCIPALS, NAMES, st.integers(0, 6), st.integers(0, 40)),
    st.tuples(st.just("expire"), st.floats(0, 150)),
)
TIGHT = ConversationBounds(max_bytes=60, principal_max_count=2, principal_max_bytes=90)


@pytest.mark.parametrize("make", list(TWINS.values()), ids=list(TWINS))
@settings(max_examples=150)
@given(st.lists(STEPS, max_size=40))
def test_any_sequence_of_events_does_as_a_plain_list_would(make: Any, steps: list[Any]) -> None:
    with TemporaryDirectory() as directory:
        asyncio.run(compare(make(Path(directory)), NaiveStore(), steps))


async def compare(stores: Stores, naive: NaiveStore, steps: list[Any]) -> None:
    async with stores:
        await take(steps, stores.conversations, naive)


async def take(steps: list[Any], store: ConversationStore, naive: NaiveStore) -> None:
    now = 1000.0
    for n, (what, *how) in enumerate(steps):
        now += 1.0
        if what == "begin":
            begun = talk(how[1], turn(100 + n, at=now), principal=how[0])
            await store.begin(begun, TIGHT)
            naive.begin(begun, TIGHT)
        elif what == "append":
            added = Turn(f"c{how[2]}", "p" * how[3], "r", now)
            kept = naive.append(how[0], how[1], added, TIGHT)
            assert await store.append(how[0], how[1], added, TIGHT) == kept
        else:
            now += how[0]
            assert await store.expire(now, TTL_S) == naive.expire(now, TTL_S)
        for principal in ("ann", "bob"):
            for name in ("a", "b", "c"):
                assert await store.find(principal, name) == naive.find(principal, name)
        assert store.statistics().conversation_count == len(naive.talks)
        assert store.statistics().text_bytes == naive.size(naive.talks)
