"""Whatever is sent, the daemon answers as docs/protocol.md says, and keeps nothing of it.

At least 30,000 frames, about the same in each run (hypothesis draws constants from the modules
that it finds loaded). Twenty times as many, others in each run:
EXAI_LONG=1 make test ARGS="tests/fuzz -o faulthandler_timeout=900"
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exai.core.events import CallSettled
from exai.testing.raw_peer import BINARY, CLOSE, TEXT, frame
from tests.fuzz.broken_frames import HELLO, REQUESTS, Batch, batches
from tests.fuzz.fuzzed_daemon import (
    MAX_MESSAGE_BYTES,
    Bye,
    Drop,
    Ending,
    FuzzedDaemon,
    TakeOver,
    Violation,
    fuzzed_daemon,
)
from tests.fuzz.websocket_frames import PIECES, Piece

LONG = bool(os.environ.get("EXAI_LONG"))
TIMES = 20 if LONG else 1

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900 if LONG else 60),
    pytest.mark.parametrize("library", ["picows", "websockets"]),
]
ENDINGS: list[Ending] = [
    *[Bye()] * 4,
    Drop(),
    TakeOver(),
    Violation(frame(BINARY, b"x"), 1003),
    Violation(frame(TEXT, b'{"op":"health"\xff}'), 1007),
    Violation(frame(TEXT, b" " * (MAX_MESSAGE_BYTES + 1)), 1009),
    Violation(frame(7, b"x"), 1002),
    Violation(frame(CLOSE, b"\x03\xe8bye"), 1000),
]


async def try_all(
    daemon: FuzzedDaemon,
    strategy: st.SearchStrategy[Any],
    example_count: int,
    attempt: Callable[[Any], Coroutine[Any, Any, None]],
) -> None:
    """Have hypothesis, in a thread, draw what this loop tries. A failure is shown as found."""
    loop = asyncio.get_running_loop()

    @settings(
        max_examples=example_count * TIMES,
        derandomize=not LONG,
        database=None,
        print_blob=LONG,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(drawn: Any) -> None:
        asyncio.run_coroutine_threadsafe(attempt(drawn), loop).result()

    daemon.has_failed = True
    await asyncio.to_thread(each)
    daemon.has_failed = False


@pytest.fixture
async def daemon(
    tmp_path: Path, library: str, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[FuzzedDaemon]:
    async with fuzzed_daemon(tmp_path, library) as running:
        yield running
    records = [*caplog.get_records("setup"), *caplog.get_records("call"), *caplog.records]
    assert [record for record in records if record.levelno >= logging.WARNING] == []


async def test_every_frame_after_the_hello_gets_its_one_answer(daemon: FuzzedDaemon) -> None:
    sent_count = 0

    async def attempt(drawn: tuple[Batch, Ending, bool]) -> None:
        nonlocal sent_count
        batch, ending, acks = drawn
        sent_count += await daemon.converse(batch, ending, acks=acks)

    drawn = st.tuples(batches(REQUESTS, 50), st.sampled_from(ENDINGS), st.booleans())
    await try_all(daemon, drawn, 240, attempt)
    assert sent_count >= 11_000 * TIMES
    codes = {event.code for event in daemon.running.events.of(CallSettled)}
    assert codes >= {"ok", "TOOL_EXECUTION_ERROR", "CANCELLED", "TIMEOUT"}


async def test_every_first_frame_is_let_in_or_told_why_not(daemon: FuzzedDaemon) -> None:
    sent_count = 0

    async def attempt(batch: Batch) -> None:
        nonlocal sent_count
        sent_count += len(batch)
        await daemon.knock(batch)

    await try_all(daemon, batches([*[HELLO] * 6, *REQUESTS[:3]], 20), 75, attempt)
    assert sent_count >= 1_400 * TIMES


async def test_every_websocket_frame_is_taken_or_ends_the_connection_with_its_code(
    daemon: FuzzedDaemon,
) -> None:
    sent_count = 0

    async def attempt(drawn: list[tuple[list[Piece], bool]]) -> None:
        nonlocal sent_count
        for pieces, greets in drawn:
            sent_count += len(pieces)
            await daemon.send_pieces(pieces, greets=greets)

    sequence = st.lists(PIECES, min_size=1, max_size=12)
    greets = st.sampled_from([True, True, False])
    await try_all(
        daemon, st.lists(st.tuples(sequence, greets), min_size=8, max_size=8), 80, attempt
    )
    assert sent_count >= 2_600 * TIMES
