"""`exai ledger purge`: what goes, what stays, and when it is refused."""

import asyncio
import os
import pty
import signal
import time
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from exai.cli.exit_codes import ExitCode
from exai.core.call_store import CallRecord, CallState
from exai.stores.instance_lock import InstanceLock
from exai.stores.sqlite_file import FILE_NAME
from exai.stores.stores import Stores
from tests.cli.exai_process import Ended, Shell, ended, serving
from tests.journeys.test_full_disk import disk, fill
from tests.journeys.wire import open_wire
from tests.stores.ledgers import accept, keep_session, kept_files, ledger_in, settle, talk

__all__ = ["disk"]  # a fixture
SECRET = "swordfish"
LARGE = SECRET * 20_000
AN_HOUR_S = 3600.0


@pytest.fixture
def shell(home: Path) -> Shell:
    return Shell(home)


@pytest.fixture
def state_dir(shell: Shell) -> Path:
    return shell.home / ".local/state/exai"


async def purge(shell: Shell, *arguments: str) -> Ended:
    return await shell.run("ledger", "purge", "--yes", *arguments)


async def known(stores: Stores, *call_ids: str) -> list[CallRecord | None]:
    return [await stores.calls.find_call(call_id) for call_id in call_ids]


async def fill_ledger(state_dir: Path, text: str = LARGE) -> None:
    """An old and a young call, with a key and without one, all settled; and conversations."""
    now = time.time()
    async with ledger_in(state_dir) as stores:
        await keep_session(stores, "alice")
        for call_id, key, ago_s in (
            ("old", None, AN_HOUR_S),
            ("old-keyed", "k1", AN_HOUR_S),
            ("young", None, 1.0),
            ("young-keyed", "k2", 1.0),
        ):
            await accept(stores, call_id, key=key, accepted_at=now - ago_s)
            await settle(stores, call_id, text, now=now - ago_s)
        await talk(stores, "alice", "old-talk", text, now - AN_HOUR_S)
        await talk(stores, "alice", "young-talk", SECRET, now)


async def test_old_results_go_and_keys_conversations_and_sessions_stay(
    shell: Shell, state_dir: Path
) -> None:
    await fill_ledger(state_dir)
    size_bytes = (state_dir / FILE_NAME).stat().st_size
    end = await purge(shell)
    assert end.status == ExitCode.OK
    assert "of what ended 10 min ago or before: 2 results" in end.err
    assert end.out.startswith("gone: 2 results (352 KiB), 1 calls, 0 conversations; the file had ")
    assert size_bytes - (state_dir / FILE_NAME).stat().st_size > 2 * len(LARGE)
    assert not (state_dir / f"{FILE_NAME}-wal").exists()
    async with ledger_in(state_dir) as stores:
        old, keyed, *young = await known(stores, "old", "old-keyed", "young", "young-keyed")
        assert old is None
        assert keyed is not None
        assert (keyed.state, keyed.settlement) == (CallState.ERASED, None)
        assert (keyed.erased_because, keyed.summary and keyed.summary.code) == ("expired", "ok")
        assert [each and each.state for each in young] == [CallState.SETTLED] * 2
        assert stores.conversations.statistics().conversation_count == 2
        assert len(await stores.sessions.load()) == 1


async def test_how_old_it_must_be_can_be_said(shell: Shell, state_dir: Path) -> None:
    await fill_ledger(state_dir)
    none = await purge(shell, "--older-than", "86400")
    assert "gone: 0 results" in none.out
    everything = await purge(shell, "--older-than", "0")
    assert "gone: 4 results" in everything.out
    async with ledger_in(state_dir) as stores:
        young, keyed = await known(stores, "young", "young-keyed")
        assert young is None
        assert keyed is not None
        assert keyed.state is CallState.ERASED


async def test_with_all_keys_and_conversations_go_too_and_no_word_is_left(
    shell: Shell, state_dir: Path
) -> None:
    await fill_ledger(state_dir)
    old = await purge(shell, "--all")
    assert "2 results (352 KiB), 2 calls, 1 conversations" in old.out
    await purge(shell, "--all", "--older-than", "0")
    async with ledger_in(state_dir) as stores:
        assert stores.calls.statistics().record_count == 0
        assert stores.conversations.statistics() == type(stores.conversations.statistics())(0, 0)
        assert await stores.calls.find_by_key("alice", "k1") is None
    assert not any(SECRET.encode() in content for content in kept_files(state_dir).values())


async def test_what_is_not_settled_stays_with_all_that_it_rests_on(
    shell: Shell, state_dir: Path
) -> None:
    async with ledger_in(state_dir) as stores:
        await accept(stores, "first", key="k")
        await settle(stores, "first", SECRET, now=1001.0)
        await accept(stores, "follower", follows="first")
        await talk(stores, "alice", "of-alice", "x", now=1000.0)
        await accept(stores, "done", principal="bob")
        await settle(stores, "done", SECRET, now=1001.0)
        await talk(stores, "bob", "of-bob", "x", now=1000.0)
    end = await purge(shell, "--all", "--older-than", "0")
    assert "1 results" in end.out
    async with ledger_in(state_dir) as stores:
        first, follower, done = await known(stores, "first", "follower", "done")
        assert first is not None
        assert (first.state, first.settlement is None) == (CallState.SETTLED, False)
        assert follower is not None
        assert (follower.state, follower.request) == (CallState.ACCEPTED, b"{}")
        assert done is None
        assert await stores.conversations.find("alice", "of-alice") is not None
        assert await stores.conversations.find("bob", "of-bob") is None


async def test_a_daemon_goes_on_with_what_is_left(shell: Shell, state_dir: Path) -> None:
    key: dict[str, Any] = {"arguments": {"text": "x"}, "idempotency_key": "k"}
    async with serving(shell) as (process, ready):
        token = (state_dir / "token").read_text().strip()
        async with open_wire(ready[1], token=token, says_bye=False) as wire:
            await wire.call("echo", **key)
            refused = await purge(shell, "--older-than", "0")
            process.send_signal(signal.SIGTERM)
            await process.wait()
    assert (refused.status, refused.out) == (ExitCode.ALREADY_RUNNING, "")
    assert f"a daemon (pid {process.pid}) uses {state_dir}" in refused.err
    assert "results expire by themselves while it runs; stop it first" in refused.err
    assert (await purge(shell, "--older-than", "0")).status == ExitCode.OK
    async with serving(shell) as (_, ready), open_wire(ready[1], token=token) as wire:
        again = await wire.call("echo", "again", **key)
        assert again["error"]["code"] == "RESULT_UNKNOWN"
        assert again["error"]["details"] == {"reason": "expired", "ok": True}


async def test_without_a_terminal_it_wants_to_be_told_that_it_is_meant(
    shell: Shell, state_dir: Path
) -> None:
    await fill_ledger(state_dir)
    before = kept_files(state_dir)
    end = await shell.run("ledger", "purge", stdin="y\n")
    assert (end.status, end.out) == (ExitCode.USAGE, "")
    assert "nothing was erased: give --yes" in end.err
    assert kept_files(state_dir) == before


@pytest.mark.parametrize(
    ("typed", "status"),
    [
        (b"y\n", ExitCode.OK),
        (b"n\n", ExitCode.REFUSED),
        (b"\n", ExitCode.REFUSED),
        (b"\x03", ExitCode.INTERRUPTED),
    ],
)
async def test_on_a_terminal_it_asks(
    shell: Shell, state_dir: Path, typed: bytes, status: ExitCode
) -> None:
    await fill_ledger(state_dir)
    before = kept_files(state_dir)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(shell.python, "-m", "exai", "ledger", "purge"),
        env=shell.environ,
        stdin=theirs,
        stdout=PIPE,
        stderr=PIPE,
        start_new_session=True,
        preexec_fn=take_terminal,
    )
    os.close(theirs)
    assert process.stderr is not None
    asked = await process.stderr.readuntil(b"Go on? [y/N] ")
    assert b"2 results (352 KiB), 1 calls, 0 conversations" in asked
    os.write(ours, typed)
    end = await ended(process)
    os.close(ours)
    assert end.status == status
    assert "Traceback" not in end.err
    assert (kept_files(state_dir) == before) is (status != ExitCode.OK)
    assert end.out.startswith("gone: 2 results") is (status == ExitCode.OK)


def take_terminal() -> None:
    """Let Ctrl-C on the terminal that is our stdin reach this process."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def test_a_daemon_that_starts_while_it_asks_is_left_alone(
    shell: Shell, state_dir: Path
) -> None:
    await fill_ledger(state_dir)
    before = kept_files(state_dir)
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(shell.python, "-m", "exai", "ledger", "purge"),
        env=shell.environ,
        stdin=theirs,
        stdout=PIPE,
        stderr=PIPE,
    )
    os.close(theirs)
    assert process.stderr is not None
    await process.stderr.readuntil(b"Go on? [y/N] ")
    with InstanceLock(state_dir):
        os.write(ours, b"y\n")
        end = await ended(process)
    os.close(ours)
    assert end.status == ExitCode.ALREADY_RUNNING
    assert f"a daemon (pid {os.getpid()}) uses {state_dir}" in end.err
    assert kept_files(state_dir) == before


async def test_without_a_ledger_there_is_nothing_to_do(shell: Shell) -> None:
    end = await purge(shell)
    assert (end.status, end.out) == (ExitCode.OK, "")
    assert "no ledger" in end.err
    assert os.listdir(shell.home) == []


@pytest.mark.parametrize("seconds", ["-1", "nan"])
async def test_what_is_no_age_is_refused(shell: Shell, seconds: str) -> None:
    end = await purge(shell, "--older-than", seconds)
    assert (end.status, end.out) == (ExitCode.USAGE, "")
    assert "--older-than: expected a number of seconds" in end.err


async def test_a_full_disk_is_told_and_nothing_that_was_not_meant_is_lost(
    shell: Shell, disk: Path
) -> None:
    await fill_ledger(disk / "state", SECRET * 2000)
    fill(disk)
    end = await purge(shell, "--state-dir", str(disk / "state"))
    assert (end.status, end.out) == (ExitCode.CANNOT_SERVE, "")
    assert "full" in end.err
    assert "Traceback" not in end.err
    (disk / "ballast").unlink()
    async with ledger_in(disk / "state") as stores:
        young: list[Any] = await known(stores, "young", "young-keyed")
        assert [each.state for each in young] == [CallState.SETTLED] * 2
