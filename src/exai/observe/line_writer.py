"""Writes lines from a thread of its own, so that no stuck terminal or pipe stops the daemon.

Knows a file descriptor and a bounded queue; knows nothing of what the lines say.
"""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

_MAX_WAITING_BYTES = 4_194_304


class LineWriter:
    """Takes lines without waiting and writes them in order; what finds no room is counted.

    Writes to the descriptor itself: a buffered stream that a thread holds when the
    interpreter ends would abort it.
    """

    def __init__(
        self,
        descriptor: int,
        note_of_loss: Callable[[int], bytes],
        max_waiting_bytes: int = _MAX_WAITING_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._note_of_loss = note_of_loss
        self._max_waiting_bytes = max_waiting_bytes
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._lost_count = 0
        self._is_closing = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Take one line, without its end; never waits, never raises."""
        with self._news:
            if self._is_closing or self._waiting_bytes + len(line) > self._max_waiting_bytes:
                self._lost_count += 1
                return
            self._waiting.append(line)
            self._waiting_bytes += len(line)
            self._news.notify()

    def close(self, patience_s: float = 1.0) -> None:
        """Write what waits, as long as that is possible in the given time."""
        with self._news:
            self._is_closing = True
            self._news.notify()
        self._thread.join(patience_s)

    def _run(self) -> None:
        while lines := self._next_lines():
            try:
                self._write_out(b"".join(line + b"\n" for line in lines))
            except OSError:  # nobody reads any more, or the disk is full; the next line tries again
                with self._news:
                    self._lost_count += len(lines)

    def _next_lines(self) -> list[bytes]:
        """Wait for lines and take them all; none are left once the end has come."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._is_closing)
            lines = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            if self._lost_count and lines:
                lines.append(self._note_of_loss(self._lost_count))
                self._lost_count = 0
            return lines

    def _write_out(self, text: bytes) -> None:
        rest = memoryview(text)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever shares the terminal with us made it non-blocking
                select.select([], [self._descriptor], [])
