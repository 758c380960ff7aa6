"""What was said to be stored is there, however the process that said so has ended."""

import json
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from exai.core.call_store import CallState, CallStore, Settlement
from exai.core.config import StoreConfig
from exai.core.outcomes import Completed, text_block
from exai.core.session_store import SessionRecord, SessionStore
from exai.stores.sqlite_file import FILE_NAME, open_database
from exai.stores.stores import stores_of
from tests.contracts.test_call_store import ANSWER, record
from tests.contracts.twins import AMPLE

KILLS = 40
MOST_LINES_BEFORE_A_KILL = 600
WRITER = """
import asyncio, sys
from pathlib import Path
from exai.core.call_store import CallRecord, CallState, SessionBounds, Settlement
from exai.core.config import StoreConfig
from exai.core.outcomes import Completed
from exai.core.session_store import SessionRecord
from exai.stores.stores import stores_of

async def call(store, name):
    n = 0
    while True:
        n += 1
        call_id = f"{name}-{n}"
        answer = Settlement(Completed([{"type": "text", "text": call_id * (n % 500)}]), 0.0, 0.0)
        is_idempotent, is_running = n % 2 == 0, n % 4 >= 2
        has_request = is_idempotent or not is_running
        await store.accept(CallRecord(
            call_id=call_id, session_id="s1", principal="ann", request_id=call_id, tool="echo",
            arguments_digest=b"d", accepted_at=1.0, timeout_s=60.0, idempotency_key=call_id,
            idempotent=is_idempotent, request=call_id.encode() * 300 if has_request else None,
            state=CallState.RUNNING if is_running else CallState.ACCEPTED,
            attempt=1 if is_running else 0, started_at=1.0 if is_running else None,
        ))
        print("running" if is_running else "accepted", call_id, flush=True)
        if not is_running:
            await store.start(call_id, "boot", 1, 1.0)
            print("running", call_id, flush=True)
        await store.settle(call_id, answer, 2.0)
        print("settled", call_id, flush=True)
        if n % 3 == 0:
            await store.acknowledge("s1", [call_id], SessionBounds(9, 9, 10**6), 3.0)
            print("erased", call_id, flush=True)

async def visit(store, name):
    n = 0
    while True:
        n += 1
        session = SessionRecord(f"{name}-{n}", "ann", f"digest of {name}-{n}".encode())
        await store.keep(session)
        print("kept", session.session_id, flush=True)
        if n % 2:
            await store.forget(session.session_id)
            print("forgotten", session.session_id, flush=True)

async def main():
    async with stores_of(StoreConfig(), Path(sys.argv[1])) as stores, asyncio.TaskGroup() as tasks:
        for n in range(8):
            tasks.create_task(call(stores.calls, f"{sys.argv[2]}-{n}"))
        tasks.create_task(visit(stores.sessions, f"{sys.argv[2]}-s"))

asyncio.run(main())
"""
ORDER = list(CallState)


@pytest.mark.slow
async def test_what_was_told_outlives_any_kill(tmp_path: Path) -> None:
    chance = random.Random(7)
    for n in range(KILLS):
        told = tell_until_killed(tmp_path, f"w{n}", chance.randint(1, MOST_LINES_BEFORE_A_KILL))
        async with stores_of(StoreConfig(), tmp_path) as stores:
            await check_calls(stores.calls, told)
            await check_sessions(stores.sessions, told)
            await check_counts(tmp_path, stores.calls)


async def check_calls(store: CallStore, told: dict[str, str]) -> None:
    """Compare the calls that are there with what was last told of each."""
    unsettled = {known.call_id: known for known in await store.unsettled()}
    for call_id, state in told.items():
        if state not in ORDER:
            continue
        known = await store.find("s1", call_id)
        assert known is not None, (call_id, state)
        assert ORDER.index(known.state) >= ORDER.index(CallState(state)), (call_id, state)
        is_over = known.state in (CallState.SETTLED, CallState.ERASED)
        assert unsettled.get(call_id) == (None if is_over else known)
        may_run = known.state is CallState.ACCEPTED or (known.idempotent and not is_over)
        assert known.request == (call_id.encode() * 300 if may_run else None)
        assert (known.started_at is None) == (known.attempt == 0)
        assert (known.summary is not None) == is_over
        assert (known.settlement is not None) == (known.state is CallState.SETTLED)
        if known.settlement is not None:
            assert isinstance(known.settlement.outcome, Completed)
            n = int(call_id.rpartition("-")[2])
            assert known.settlement.outcome.outputs == [text_block(call_id * (n % 500))]


async def check_sessions(store: SessionStore, told: dict[str, str]) -> None:
    """Compare the sessions that are there with what was last told of each."""
    sessions = {known.session_id: known for known in await store.load()}
    for session_id, state in told.items():
        is_about_to_go = int(session_id.rpartition("-")[2]) % 2 == 1
        if state == "forgotten":
            assert session_id not in sessions
        elif state == "kept" and not is_about_to_go:
            digest = f"digest of {session_id}".encode()
            assert sessions[session_id] == SessionRecord(session_id, "ann", digest)


def tell_until_killed(directory: Path, name: str, line_count: int) -> dict[str, str]:
    """Let a process write until it has told so much; return the last that it told of each."""
    command = [sys.executable, "-c", WRITER, str(directory), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(line_count)]
        writer.kill()
        lines += writer.stdout.readlines()
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {name: state for state, name in whole}


async def check_counts(directory: Path, store: CallStore) -> None:
    """Compare what was counted as it was loaded with what there is."""
    with closing(open_database(directory)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counted = connection.execute(
            "SELECT count(*), coalesce(sum(length(settlement)), 0), count(settlement),"
            " count(*) FILTER (WHERE state = 'settled') FROM calls"
        ).fetchone()
    statistics = store.statistics()
    usage = await store.usage("s1")
    assert counted == (
        statistics.record_count,
        statistics.result_bytes,
        usage.result_count,
        usage.result_count,
    )
    assert usage.result_bytes == statistics.result_bytes


FILLER = """
import asyncio, json, resource, sys
from pathlib import Path
from exai.core.call_store import CallRecord, Settlement
from exai.core.config import StoreConfig
from exai.core.errors import ServiceUnavailable
from exai.core.outcomes import Completed
from exai.stores.stores import stores_of

def record(call_id):
    return CallRecord(
        call_id=call_id, session_id="s1", principal="ann", request_id=call_id, tool="echo",
        arguments_digest=b"d", accepted_at=1.0, timeout_s=60.0,
    )

async def settle(store, call_id):
    text = {"type": "text", "text": "x" * 100_000}
    try:
        await store.accept(record(call_id))
        return await store.settle(call_id, Settlement(Completed([text]), 0.0, 0.0), 2.0)
    except ServiceUnavailable as error:
        return str(error)

async def main():
    async with stores_of(StoreConfig(), Path(sys.argv[1])) as stores:
        await fill(stores.calls)

async def fill(store):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    full = await asyncio.gather(*(settle(store, f"full-{n}") for n in range(30)))
    found = await store.find("s1", "full-0")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    roomy = await asyncio.gather(*(settle(store, f"roomy-{n}") for n in range(5)))
    again = await asyncio.gather(*(settle(store, f"full-{n}") for n in range(30)))
    print(json.dumps([full, found is not None, roomy, again]))

asyncio.run(main())
"""


async def test_what_cannot_be_written_fails_and_harms_nothing(tmp_path: Path) -> None:
    full, is_found, roomy, again = fill(tmp_path)
    refused = [answer for answer in full if answer is not True]
    assert is_found
    assert refused
    assert {str(answer) for answer in refused} == {"the ledger is out of order: disk I/O error"}
    assert roomy == [True] * 5
    assert again == [answer is not True for answer in full], "what was refused can be done now"
    async with stores_of(StoreConfig(), tmp_path) as stores:
        for n in range(len(full)):
            known = await stores.calls.find("s1", f"full-{n}")
            assert known is not None
            assert known.state is CallState.SETTLED
            assert known.settlement is not None
        await check_counts(tmp_path, stores.calls)


async def test_what_is_erased_cannot_be_read_in_the_file(tmp_path: Path) -> None:
    secret = Settlement(Completed([text_block("swordfish " * 5000)]), 0.0, 0.0)
    async with stores_of(StoreConfig(), tmp_path) as stores:
        await stores.calls.accept(record())
        await stores.calls.settle("c1", secret, now=1001.0)
        await stores.calls.accept(record("c2"))
        await stores.calls.acknowledge("s1", ["r-c1"], AMPLE, now=1002.0)
    assert b"swordfish" not in (tmp_path / FILE_NAME).read_bytes()


@pytest.mark.parametrize("seed", range(3))
async def test_a_request_cannot_be_read_in_the_file_once_its_call_has_settled(
    tmp_path: Path, seed: int
) -> None:
    """Whatever its size, and however pages were split and joined around it meanwhile."""
    chance = random.Random(seed)
    sizes = [chance.choice([0, 30, 300, 1200, 5000, 50_000]) for _ in range(300)]
    async with stores_of(StoreConfig(), tmp_path) as stores:
        for n, size in enumerate(sizes):
            request = b"swordfish" + b"x" * size
            await stores.calls.accept(record(f"c{n}", request=request, idempotent=n % 2 == 0))
        log_out(tmp_path)
        assert read_all(tmp_path).count(b"swordfish") >= len(sizes)
        order = chance.sample(range(len(sizes)), len(sizes))
        for n in order:
            await stores.calls.start(f"c{n}", "boot", 1, now=1001.0)
        for n in order:
            await stores.calls.settle(f"c{n}", ANSWER, now=1002.0)
        log_out(tmp_path)
        assert b"swordfish" not in read_all(tmp_path)


def log_out(directory: Path) -> None:
    """Move all of the log into the database, and cut the log to nothing."""
    with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)


def read_all(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


def fill(directory: Path) -> tuple[list[bool | str], bool, list[bool | str], list[bool | str]]:
    """Let a process write more than it may, and then have more room."""
    command = [sys.executable, "-c", FILLER, str(directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=30)
    full, is_found, roomy, again = json.loads(done.stdout)
    return full, is_found, roomy, again
