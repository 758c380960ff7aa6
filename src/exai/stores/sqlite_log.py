"""Moves a database's log into its file, nearly all of it beside the thread that writes the log.

By itself SQLite does that within a commit, which then waits for the disk, as does everybody
behind it. Only when all of the log is in the file does it begin anew, and while calls come
that is never so; so the writer moves what came meanwhile, which is little. Where the log
grows faster than it is moved, the writer waits.
"""

import sqlite3
import threading
from contextlib import closing, suppress

_MOVED_AT_BYTES = 8_388_608
_LONGEST_BYTES = 67_108_864


class SqliteLog:
    """The log that one connection writes: `after_commit` and `close` are its thread's to call."""

    def __init__(self, writer: sqlite3.Connection) -> None:
        self._writer = writer
        writer.execute("PRAGMA wal_autocheckpoint = 0")
        _, _, self._path = writer.execute("PRAGMA database_list").fetchone()
        self._grown_bytes = 0
        self._is_due = threading.Event()
        self._is_moved = self._is_closing = False
        self._moving = threading.Lock()
        self._mover = threading.Thread(target=self._work, name="ledger-log", daemon=True)
        self._mover.start()

    def after_commit(self, size_bytes: int) -> None:
        """Take note of about how much the log has grown; see to it that it does not for ever."""
        self._grown_bytes += size_bytes
        if self._is_moved or self._grown_bytes > _LONGEST_BYTES:
            with self._moving:
                _move(self._writer)
            self._is_moved, self._grown_bytes = False, 0
        elif self._grown_bytes > _MOVED_AT_BYTES:
            self._is_due.set()

    def close(self) -> None:
        """Move nothing any more; who closes the writer moves the rest."""
        self._is_closing = True
        self._is_due.set()
        self._mover.join()

    def _work(self) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            while self._is_due.wait() and not self._is_closing:
                self._is_due.clear()
                with self._moving:
                    _move(connection)
                self._is_moved = True


def _move(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):  # what could not be moved is when there is more
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
