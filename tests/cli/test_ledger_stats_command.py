"""`exai ledger stats`, with a daemon that uses the ledger, without one, and without a ledger."""

import asyncio
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exai.cli.exit_codes import ExitCode
from exai.stores.sqlite_file import FILE_NAME
from exai.stores.sqlite_schema import MIGRATIONS
from tests.cli.exai_process import Shell, serving
from tests.journeys.wire import open_wire
from tests.stores.ledgers import (
    SPOILT,
    accept,
    keep_session,
    kept_files,
    ledger_in,
    settle,
    talk,
)

TEXT = "x" * 5000


@pytest.fixture
def shell(home: Path) -> Shell:
    return Shell(home)


@pytest.fixture
def state_dir(shell: Shell) -> Path:
    return shell.home / ".local/state/exai"


async def stats(shell: Shell, *arguments: str) -> dict[str, Any]:
    end = await shell.run("ledger", "stats", "-o", "json", *arguments)
    assert (end.status, end.err) == (ExitCode.OK, "")
    told = json.loads(end.out)
    assert isinstance(told, dict)
    return told


async def fill(state_dir: Path) -> float:
    """Let a ledger hold some of everything; return when its oldest open call was accepted."""
    open_since = time.time() - 180
    async with ledger_in(state_dir) as stores:
        for n in range(3):
            await accept(stores, f"a{n}", key=f"k{n}" if n else None)
            await settle(stores, f"a{n}", TEXT, now=1001.0)
        await accept(stores, "b0", principal="bob", accepted_at=open_since)
        await accept(stores, "b1", principal="bob", accepted_at=open_since + 1)
        await stores.calls.start("b1", "boot", 1, now=open_since + 1)
        await keep_session(stores, "alice")
        await talk(stores, "carol", "t1", "é" * 100, now=1000.0)
        await stores.calls.expire(2000.0, 999.0, 9999.0)
        await accept(stores, "a3", accepted_at=open_since + 2)
        await settle(stores, "a3", TEXT, now=open_since + 3)
    return open_since


async def test_calls_results_and_whose_they_are_are_counted(shell: Shell, state_dir: Path) -> None:
    open_since = await fill(state_dir)
    told = await stats(shell)
    assert told["path"] == str(state_dir / FILE_NAME)
    assert (told["version"], len(told["ledger_id"])) == (len(MIGRATIONS), 16)
    assert told["size_bytes"] == (state_dir / FILE_NAME).stat().st_size
    assert (told["log_bytes"], told["free_bytes"] > 4000) == (0, True)
    assert told["calls"] == {"accepted": 1, "running": 1, "settled": 1, "erased": 3}
    oldest = told["oldest_open"]
    assert (oldest["call_id"], oldest["principal"], oldest["state"]) == ("b0", "bob", "accepted")
    assert oldest["accepted_at"] == open_since
    alice, bob, carol = [told["principals"][name] for name in ("alice", "bob", "carol")]
    assert 5000 < alice.pop("result_bytes") < 5500
    assert alice == {
        "call_count": 4,
        "open_count": 0,
        "key_count": 2,
        "session_count": 1,
        "conversation_count": 0,
        "conversation_bytes": 0,
    }
    assert (bob["call_count"], bob["open_count"]) == (2, 2)
    assert (carol["call_count"], carol["conversation_count"]) == (0, 1)
    assert carol["conversation_bytes"] > 200


async def test_people_are_told_in_words(shell: Shell, state_dir: Path) -> None:
    await fill(state_dir)
    end = await shell.run("ledger", "stats")
    assert (end.status, end.err) == (ExitCode.OK, "")
    assert end.out.startswith(f"ledger {state_dir / FILE_NAME}\n")
    rows = [" ".join(line.split()) for line in end.out.splitlines()]
    assert "calls 6: 1 accepted, 3 erased, 1 running, 1 settled" in rows
    assert "results 5 KiB" in rows
    assert "PRINCIPAL CALLS OPEN RESULTS KEYS SESSIONS CONVERSATIONS" in rows
    assert "bob 2 2 0 bytes 0 0 0" in rows
    (oldest,) = [row for row in rows if row.startswith("oldest open")]
    assert "echo, call b0 of bob: accepted, since " in oldest
    assert oldest.endswith(", 3 min ago")
    assert TEXT not in end.out


async def test_a_daemon_that_runs_is_not_disturbed(shell: Shell, state_dir: Path) -> None:
    async with serving(shell) as (_, ready):
        token = (state_dir / "token").read_text().strip()
        async with open_wire(ready[1], token=token, says_bye=False) as wire:
            for n in range(5):
                await wire.call("echo", f"r{n}", arguments={"text": TEXT})
            before = kept_files(state_dir)
            told = await stats(shell)
            assert kept_files(state_dir) == before
            assert told["calls"] == {"settled": 5}
            assert told["log_bytes"] == len(before[f"{FILE_NAME}-wal"]) > 25_000
            assert told["principals"]["default"]["session_count"] == 1
            assert (await wire.call("echo", "r5", arguments={"text": "x"}))["ok"]


async def test_what_a_killed_daemon_left_is_read_and_left_as_it_is(
    shell: Shell, state_dir: Path
) -> None:
    async with serving(shell) as (process, ready):
        token = (state_dir / "token").read_text().strip()
        async with open_wire(ready[1], token=token, says_bye=False) as wire:
            await wire.call("echo", arguments={"text": TEXT})
            process.kill()
            await process.wait()
    before = kept_files(state_dir)
    told = await stats(shell)
    assert told["calls"] == {"settled": 1}
    assert kept_files(state_dir) == before


async def test_without_a_ledger_it_says_so_and_makes_none(shell: Shell, state_dir: Path) -> None:
    none = await shell.run("ledger", "stats")
    assert (none.status, none.out) == (ExitCode.OK, "")
    assert f"no ledger: {state_dir / FILE_NAME} is not there" in none.err
    assert os.listdir(shell.home) == []
    os.makedirs(state_dir)
    os.mknod(state_dir / FILE_NAME)
    empty = await shell.run("ledger", "stats", "-o", "json")
    assert (empty.status, empty.out) == (ExitCode.OK, "null\n")
    shell.environ["EXAI_STORE_KIND"] = "memory"
    in_memory = await shell.run("ledger", "stats")
    assert in_memory.status == ExitCode.OK
    assert "in the daemon's memory (store.kind = memory)" in in_memory.err


@pytest.mark.parametrize(
    ("spoil", "said"), SPOILT.items(), ids=lambda each: getattr(each, "__name__", "")
)
async def test_what_cannot_be_used_is_refused_and_left_as_it_is(
    shell: Shell, state_dir: Path, spoil: Callable[[Path], None], said: str
) -> None:
    os.makedirs(state_dir)
    spoil(state_dir)
    before = kept_files(state_dir)
    for command in (("stats",), ("purge", "--yes")):
        end = await shell.run("ledger", *command)
        assert (end.status, end.out) == (ExitCode.CANNOT_SERVE, "")
        assert said in end.err
        assert str(state_dir / FILE_NAME) in end.err
        assert "Traceback" not in end.err
    assert kept_files(state_dir) == before


async def test_a_wrong_configuration_is_refused(shell: Shell) -> None:
    (shell.home / "exai.toml").write_text("[store]\nknd = 1\n")
    ends = await asyncio.gather(
        *(shell.run("ledger", name, "--config", "exai.toml") for name in ("stats", "purge"))
    )
    assert [end.status for end in ends] == [ExitCode.USAGE] * 2
