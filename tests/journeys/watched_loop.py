"""How long the event loop is held, as whoever waits for its turn notices."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """How long the event loop was held at the longest; `time_s` is processor time, not load."""

    def __init__(self) -> None:
        self.longest_s = 0.0


@asynccontextmanager
async def watched_loop() -> AsyncIterator[Turns]:
    """Measure the processor time that this thread spends between two turns of the loop."""
    turns = Turns()

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            turns.longest_s, before = max(turns.longest_s, now - before), now

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        yield turns
        watching.cancel()
