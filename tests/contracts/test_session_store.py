"""Every store of sessions keeps the same promises."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exai.core.session_store import SessionRecord, SessionStore
from tests.contracts.twins import TWINS


@pytest.fixture(params=list(TWINS.values()), ids=list(TWINS))
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[SessionStore]:
    async with request.param(tmp_path) as stores:
        yield stores.sessions


def session(name: str, principal: str = "ann", digest: bytes = b"\x00\xff") -> SessionRecord:
    return SessionRecord(name, principal, digest)


async def test_sessions_are_loaded_as_they_were_kept_oldest_first(store: SessionStore) -> None:
    assert await store.load() == []
    kept = [session("s2"), session("s1", "bob"), session("s3", digest=b"")]
    for each in kept:
        await store.keep(each)
    assert await store.load() == kept


async def test_a_session_is_kept_once_and_as_it_was_first(store: SessionStore) -> None:
    await store.keep(session("s1"))
    await store.keep(session("s2"))
    await store.keep(session("s1", "bob", b"other"))
    assert await store.load() == [session("s1"), session("s2")]


async def test_a_forgotten_session_is_gone_and_others_stay(store: SessionStore) -> None:
    for name in ("s1", "s2", "s3"):
        await store.keep(session(name))
    for name in ("s2", "s2", "s-unknown"):
        await store.forget(name)
    assert await store.load() == [session("s1"), session("s3")]


async def test_a_session_kept_anew_is_the_youngest(store: SessionStore) -> None:
    for name in ("s1", "s2"):
        await store.keep(session(name))
    for name in ("s2", "s1"):
        await store.forget(name)
        await store.keep(session(name, digest=b"anew"))
    assert await store.load() == [session("s2", digest=b"anew"), session("s1", digest=b"anew")]
