"""How long single callbacks hold the event loop, in CPU time: a busy machine adds nothing."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock


class LoopTime:
    """The longest callback so far."""

    longest_s = 0.0
    name = ""


@contextmanager
def loop_time() -> Iterator[LoopTime]:
    """Measure every callback that runs inside."""
    longest = LoopTime()
    run = vars(asyncio.Handle)["_run"]

    def timed(handle: asyncio.Handle) -> None:
        started_s = time.thread_time()
        run(handle)
        took_s = time.thread_time() - started_s
        if took_s > longest.longest_s:
            longest.longest_s, longest.name = took_s, repr(handle)

    with mock.patch.object(asyncio.Handle, "_run", timed):
        yield longest
