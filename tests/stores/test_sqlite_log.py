"""A log that ends anywhere leaves what was committed before that: all of it, and no more."""

import asyncio
import random
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import StoreConfig
from exai.stores.sqlite_file import FILE_NAME
from exai.stores.stores import Stores, memory_stores, stores_of
from tests.contracts.test_twins_agree import Calls, Visits, agree, all_of_calls, all_of_visits

ROOT = Path(__file__).parents[2]
LOG_NAME = f"{FILE_NAME}-wal"
HEADER_BYTES, FRAME_BYTES = 32, 24 + 4096
DATABASE_PAGES = slice(4, 8)  # of a frame, where it is the last of its transaction; else 0
MOST_AT_ONCE = 4
STEPS, FEWEST_FRAMES = 160, 60
WRITER = """
import asyncio, sys
from pathlib import Path
from tests.stores.test_sqlite_log import write
asyncio.run(write(Path(sys.argv[1]), *map(int, sys.argv[2:])))
"""

Step = Callable[[Stores], Awaitable[Any]]


def steps_of(seed: int) -> Iterator[Step]:
    """Return what happens to the stores, one thing after another."""
    chance = random.Random(seed)
    calls, visits = Calls(random.Random(seed), is_waited_for=False), Visits(random.Random(seed))
    while True:
        if chance.random() < 0.2:
            yield visiting(visits.next_step())
        else:
            yield calling(calls.next_step())


def calling(step: Callable[[Any], Awaitable[Any]]) -> Step:
    return lambda stores: step(stores.calls)


def visiting(step: Callable[[Any], Awaitable[Any]]) -> Step:
    return lambda stores: step(stores.sessions)


async def all_of(stores: Stores) -> list[Any]:
    return [await all_of_calls(stores.calls), await all_of_visits(stores.sessions)]


async def write(directory: Path, seed: int, checkpointed_count: int, logged_count: int) -> None:
    """Be the writer: carry out some steps that leave the log, and some that stay in it."""
    steps = steps_of(seed)
    async with stores_of(StoreConfig(), directory) as stores:
        if checkpointed_count:
            await carry_out(stores, islice(steps, checkpointed_count))
            with closing(sqlite3.connect(directory / FILE_NAME)) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        await carry_out(stores, islice(steps, logged_count))
        sys.stdout.write("done\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


async def carry_out(stores: Stores, steps: Iterator[Step]) -> None:
    """Carry out some at once, which so become a few transactions."""
    while at_once := list(islice(steps, MOST_AT_ONCE)):
        await asyncio.gather(*(step(stores) for step in at_once))


def files_of_killed_writer(directory: Path, *numbers: int) -> tuple[bytes, bytes]:
    """Let a process write and be killed; return its database and its log."""
    command = [sys.executable, "-c", WRITER, str(directory), *map(str, numbers)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "done\n"
        writer.kill()
    return (directory / FILE_NAME).read_bytes(), (directory / LOG_NAME).read_bytes()


async def history(seed: int, count: int) -> list[list[Any]]:
    """Return what there is to know after no step, after one, and so on, by the memory twin."""
    steps, stores = steps_of(seed), memory_stores()
    states = [await all_of(stores)]
    for _ in range(count):
        await next(steps)(stores)
        states.append(await all_of(stores))
    return states


async def state_in(directory: Path, database: bytes, log: bytes) -> list[Any]:
    """Open a database and its log; return all there is to know."""
    (directory / FILE_NAME).write_bytes(database)
    (directory / LOG_NAME).write_bytes(log)
    async with stores_of(StoreConfig(), directory) as stores:
        return await all_of(stores)


def transaction_count(log: bytes) -> int:
    frames = [log[at : at + FRAME_BYTES] for at in range(HEADER_BYTES, len(log), FRAME_BYTES)]
    return sum(any(frame[DATABASE_PAGES]) for frame in frames)


def find_state(states: list[list[Any]], state: list[Any], begin: int) -> int:
    """Return after how many steps, at least `begin`, this was all."""
    for n in range(begin, len(states)):
        if agree(states[n], state):
            return n
    raise AssertionError(f"after {begin} steps or more there never was {state}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpointed_count", "logged_count"),
    [(0, STEPS), (200, STEPS)],
    ids=["from the first", "later"],
)
async def test_a_log_that_ends_anywhere_holds_a_beginning_of_what_happened(
    tmp_path: Path, checkpointed_count: int, logged_count: int
) -> None:
    seed, chance = 11, random.Random(11)
    written, cut = tmp_path / "written", tmp_path / "cut"
    for directory in (written, cut):
        directory.mkdir()
    database, log = files_of_killed_writer(written, seed, checkpointed_count, logged_count)
    states = await history(seed, checkpointed_count + logged_count)
    frame_ends = range(HEADER_BYTES, len(log) + 1, FRAME_BYTES)
    assert frame_ends[-1] == len(log)
    assert len(frame_ends) > FEWEST_FRAMES
    assert len(frame_ends) > 1.5 * transaction_count(log), "many are of several pages"
    elsewhere = [end + chance.randrange(1, FRAME_BYTES) for end in frame_ends[:-1]]
    reached, at_ends = checkpointed_count, {checkpointed_count}
    for length in sorted([0, 1, HEADER_BYTES - 1, *frame_ends, *elsewhere]):
        state = await state_in(cut, database, log[:length])
        reached = find_state(states, state, reached)
        at_ends.add(reached)
    assert agree(states[-1], await state_in(cut, database, log)), "whole, it holds all"
    assert len(at_ends) > logged_count / MOST_AT_ONCE / 2, "it held many beginnings"


@pytest.mark.slow
async def test_a_log_with_a_damaged_page_holds_what_was_committed_before_that(
    tmp_path: Path,
) -> None:
    seed, count, chance = 12, STEPS, random.Random(12)
    written, damaged = tmp_path / "written", tmp_path / "damaged"
    for directory in (written, damaged):
        directory.mkdir()
    database, log = files_of_killed_writer(written, seed, 0, count)
    states = await history(seed, count)
    reached = 0
    for frame in range(HEADER_BYTES, len(log), 5 * FRAME_BYTES):
        spoilt = bytearray(log)
        spoilt[frame + chance.randrange(FRAME_BYTES)] ^= 1 << chance.randrange(8)
        cut = find_state(states, await state_in(damaged, database, log[:frame]), reached)
        reached = find_state(states, await state_in(damaged, database, bytes(spoilt)), cut)
        assert agree(states[cut], states[reached])
