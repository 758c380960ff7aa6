"""What was said to be stored is there, however the process that said so has ended."""

import json
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from exai.core.call_store import CallState, CallStore, Settlement
from exai.core.outcomes import Completed, text_block
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import FILE_NAME, open_database
from exai.stores.sqlite_store import SqliteCallStore
from tests.contracts.test_call_store import record

KILLS = 40
MOST_LINES_BEFORE_A_KILL = 600
WRITER = """
import asyncio, sys
from pathlib import Path
from exai.core.call_store import CallRecord, Settlement
from exai.core.outcomes import Completed, text_block
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import open_database
from exai.stores.sqlite_store import SqliteCallStore

async def write(store, name):
    n = 0
    while True:
        n += 1
        call_id = f"{name}-{n}"
        answer = Settlement(Completed([{"type": "text", "text": call_id * (n % 500)}]), 0.0, 0.0)
        await store.accept(CallRecord(
            call_id=call_id, session_id="s1", principal="ann", request_id=call_id, tool="echo",
            arguments_digest=b"d", accepted_at=1.0, timeout_s=60.0, idempotency_key=call_id,
        ))
        print("accepted", call_id, flush=True)
        await store.start(call_id, "boot", 1)
        print("running", call_id, flush=True)
        await store.settle(call_id, answer, 2.0)
        print("settled", call_id, flush=True)
        if n % 3 == 0:
            await store.acknowledge("s1", [call_id], 3.0)
            print("erased", call_id, flush=True)

async def main():
    store = SqliteCallStore(SqliteDatabase(open_database(Path(sys.argv[1]))))
    await asyncio.gather(*(write(store, f"{sys.argv[2]}-{n}") for n in range(8)))

asyncio.run(main())
"""
ORDER = list(CallState)


@pytest.mark.slow
async def test_what_was_told_outlives_any_kill(tmp_path: Path) -> None:
    chance = random.Random(7)
    for n in range(KILLS):
        told = tell_until_killed(tmp_path, f"w{n}", chance.randint(1, MOST_LINES_BEFORE_A_KILL))
        store = open_ledger(tmp_path)
        for call_id, state in told.items():
            known = await store.find("s1", call_id)
            assert known is not None, (n, call_id, state)
            assert ORDER.index(known.state) >= ORDER.index(state), (n, call_id, state)
            if known.settlement is not None:
                assert isinstance(known.settlement.outcome, Completed)
        await check_counts(tmp_path, store)
        await store.close()


def tell_until_killed(directory: Path, name: str, line_count: int) -> dict[str, CallState]:
    """Let a process write until it has told so much; return the last that it told of each call."""
    command = [sys.executable, "-c", WRITER, str(directory), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(line_count)]
        writer.kill()
        lines += writer.stdout.readlines()
    whole = [line.split() for line in lines if line.endswith("\n")]
    return {call_id: CallState(state) for state, call_id in whole}


async def check_counts(directory: Path, store: CallStore) -> None:
    """Compare what triggers have counted with what there is."""
    with closing(open_database(directory)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counted = connection.execute(
            "SELECT count(*), sum(length(encoded)), sum(settled_at IS NOT NULL AND encoded IS NULL)"
            " - sum(erased_at IS NOT NULL) FROM calls LEFT JOIN settlements USING (number)"
        ).fetchone()
    statistics = store.statistics()
    assert counted == (statistics.record_count, statistics.result_bytes or None, 0)
    usage = await store.usage("s1")
    assert usage.result_bytes == statistics.result_bytes


FILLER = """
import asyncio, json, resource, sys
from pathlib import Path
from exai.core.call_store import CallRecord, Settlement
from exai.core.errors import ServiceUnavailable
from exai.core.outcomes import Completed
from exai.stores.sqlite_database import SqliteDatabase
from exai.stores.sqlite_file import open_database
from exai.stores.sqlite_store import SqliteCallStore

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
    store = SqliteCallStore(SqliteDatabase(open_database(Path(sys.argv[1]))))
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
    full = await asyncio.gather(*(settle(store, f"full-{n}") for n in range(30)))
    found = await store.find("s1", "full-0")
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    roomy = await asyncio.gather(*(settle(store, f"roomy-{n}") for n in range(5)))
    print(json.dumps([full, found is not None, roomy]))

asyncio.run(main())
"""


async def test_what_cannot_be_written_fails_and_harms_nothing(tmp_path: Path) -> None:
    full, is_found, roomy = fill(tmp_path)
    refused = [answer for answer in full if answer is not True]
    assert is_found
    assert refused
    assert {str(answer) for answer in refused} == {"the ledger is out of order: disk I/O error"}
    assert roomy == [True] * 5
    store = open_ledger(tmp_path)
    for n, answer in enumerate(full):
        known = await store.find("s1", f"full-{n}")
        is_settled = known is not None and known.state is CallState.SETTLED
        assert is_settled == (answer is True)
    await check_counts(tmp_path, store)
    await store.close()


async def test_what_is_erased_cannot_be_read_in_the_file(tmp_path: Path) -> None:
    store = open_ledger(tmp_path)
    secret = Settlement(Completed([text_block("swordfish " * 5000)]), 0.0, 0.0)
    await store.accept(record())
    await store.settle("c1", secret, now=1001.0)
    await store.accept(record("c2"))
    await store.acknowledge("s1", ["r-c1"], now=1002.0)
    await store.close()
    assert b"swordfish" not in (tmp_path / FILE_NAME).read_bytes()


def fill(directory: Path) -> tuple[list[bool | str], bool, list[bool | str]]:
    """Let a process write more than it may, and then have more room."""
    command = [sys.executable, "-c", FILLER, str(directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=30)
    full, is_found, roomy = json.loads(done.stdout)
    return full, is_found, roomy


def open_ledger(directory: Path) -> CallStore:
    return SqliteCallStore(SqliteDatabase(open_database(directory)))
