"""Writes lines from a thread of its own, so that no stuck terminal or pipe stops the daemon.

Knows a file descriptor and a bounded queue; knows nothing of what the lines say.
"""

import os
import select
import threading
from collections import deque

_MAX_WAITING_LINES = 10_000


class LineWriter:
    """Takes lines without waiting and writes them in order; what finds no room is counted.

    Writes to the descriptor itself: a buffered stream that a thread holds when the
    interpreter ends would abort it.
    """

    def __init__(self, descriptor: int, max_waiting_lines: int = _MAX_WAITING_LINES) -> None:
        self._descriptor = descriptor
        self._max_waiting_lines = max_waiting_lines
        self._waiting: deque[bytes] = deque()
        self._dropped_count = 0
        self._is_closing = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    @property
    def dropped_count(self) -> int:
        """Return how many lines found no room, or nobody to read them."""
        return self._dropped_count

    def write(self, line: bytes) -> None:
        """Take one line, without its end; never waits, never raises."""
        with self._news:
            if self._is_closing or len(self._waiting) >= self._max_waiting_lines:
                self._dropped_count += 1
                return
            self._waiting.append(line)
            self._news.notify()

    def close(self, patience_s: float = 1.0) -> None:
        """Write what waits, as long as that is possible in the given time."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._is_closing)
                if not self._waiting:
                    return
                lines = list(self._waiting)
                self._waiting.clear()
            try:
                self._write_out(b"".join(line + b"\n" for line in lines))
            except OSError:  # nobody reads any more, or the disk is full; the next line tries again
                self._dropped_count += len(lines)

    def _write_out(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever shares the terminal with us made it non-blocking
                select.select([], [self._descriptor], [])
