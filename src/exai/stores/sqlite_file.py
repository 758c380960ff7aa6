"""Opens the ledger's database: new, or brought up to date, or refused as it is.

Knows the file, its settings and its version; knows nothing of calls.

`synchronous` decides what survives what. Once a transaction is committed, the kernel has
it: with `normal` it outlives the death of the daemon in any way, kill -9 included, and no
commit waits for the disk. When the machine itself loses power or panics, the last commits
may be gone; the database is whole all the same, for its log has checksums. What is then
lost is forgotten altogether, or stands one step earlier in its life, so that work which
had begun may be taken for work that had not, and be done twice. `full` waits for the disk
at every commit, which closes that gap and costs each group of writes one `fsync`. Daemons
die, are killed and updated every day and machines seldom lose power, so `normal` is the
default; who pays more for a call done twice than for milliseconds takes `full`.

What is deleted is overwritten in the database (`secure_delete`). The log may hold it for
a while longer: until it is used again from its beginning, or the database is closed.
"""

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from exai.stores.sqlite_schema import MIGRATIONS

Synchronous = Literal["normal", "full"]

FILE_NAME = "ledger.sqlite3"
LOG_NAME = f"{FILE_NAME}-wal"
_APPLICATION_ID = 0x45584149  # "EXAI"
_OLDEST_SQLITE = (3, 37)  # STRICT tables
_BUSY_TIMEOUT_MS = 5000  # whoever looks at the file beside us lets go of it in this time
_CACHE_KIB = 16_384
_LOG_BYTES = 16_777_216  # what its file is cut to, once all of the log is in the database


class DatabaseUnusable(Exception):
    """The database cannot be used, and is left as it was; the message says what to do."""


def open_database(
    directory: Path,
    *,
    synchronous: Synchronous = "normal",
    migrations: Sequence[str] = MIGRATIONS,
) -> sqlite3.Connection:
    """Open the database in a directory, at the newest version. Raises `DatabaseUnusable`.

    The connection may be used in any one thread, and leaves transactions to its user.
    """
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        raise DatabaseUnusable(
            f"SQLite {sqlite3.sqlite_version} is too old for the ledger; use a Python with "
            f"SQLite {'.'.join(map(str, _OLDEST_SQLITE))} or newer, or --store memory"
        )
    path = directory / FILE_NAME
    try:
        _make_private(path)
        with closing(_connect_to_read(path)) as connection:
            version = _checked_version(connection, path, len(migrations), is_thorough=True)
        return _connect(path, synchronous, migrations[version:], version)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error


def rehearse_database(directory: Path, *, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Raise `DatabaseUnusable` for a database that is not ours to open, also while another uses it.

    Whether it is sound is not looked at: that takes the longer the larger it is.
    """
    with reading_database(directory, newest=len(migrations)):
        pass


@contextmanager
def reading_database(
    directory: Path, *, is_thorough: bool = False, newest: int = len(MIGRATIONS)
) -> Iterator[sqlite3.Connection | None]:
    """Open the database to look into it, also while a daemon uses it; None where there is none.

    Nothing is written to it. `is_thorough` looks whether it is sound, too, which takes the
    longer the larger it is. Raises `DatabaseUnusable`, also for what is found out while the
    context is open.
    """
    path = directory / FILE_NAME
    try:
        if not path.exists():
            yield None
            return
        with closing(_connect_to_read(path)) as connection:
            version = _checked_version(connection, path, newest, is_thorough=is_thorough)
            connection.execute("BEGIN")  # so that all that is read is of one moment
            yield connection if version else None
    except (OSError, sqlite3.Error) as error:
        raise _unusable(path, error) from error


def _unusable(path: Path, error: Exception) -> DatabaseUnusable:
    return DatabaseUnusable(
        f"the ledger {path} cannot be used ({error}); move it away to begin a new one, "
        "or restore it from a copy"
    )


def _make_private(path: Path) -> None:
    """Have a file that only we can read, empty if there was none; what lies beside it inherits
    that.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(file, 0o600)
    finally:
        os.close(file)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Return a connection that writes nothing.

    One that may write would move the log into the file when it is closed, and one that knows of
    no log leaves an empty one.
    """
    has_log = path.with_name(LOG_NAME).exists()
    address = f"file:{quote(str(path))}?{'mode=ro' if has_log else 'immutable=1'}"
    return sqlite3.connect(address, uri=True, isolation_level=None)


def _checked_version(
    connection: sqlite3.Connection, path: Path, newest: int, *, is_thorough: bool
) -> int:
    """Return the version of a database of ours, 0 for an empty one."""
    if is_thorough:
        (fault,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if fault != "ok":
            raise sqlite3.DatabaseError(fault.splitlines()[-1])
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    is_empty = connection.execute("SELECT 1 FROM sqlite_schema").fetchone() is None
    if owner != _APPLICATION_ID and not is_empty:
        raise DatabaseUnusable(
            f"{path} is the database of another program; move it away, or choose another "
            "directory with --state-dir"
        )
    if version > newest:
        raise DatabaseUnusable(
            f"the ledger {path} was written by a newer EXAI (version {version} of its tables; "
            f"this one knows {newest}); update EXAI, or move the file away to begin a new one"
        )
    return int(version)


def _connect(
    path: Path, synchronous: Synchronous, migrations: Sequence[str], version: int
) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        for setting in (
            f"busy_timeout = {_BUSY_TIMEOUT_MS}",
            "journal_mode = wal",
            f"synchronous = {synchronous}",
            "secure_delete = on",
            "foreign_keys = on",
            f"cache_size = -{_CACHE_KIB}",
            f"journal_size_limit = {_LOG_BYTES}",
        ):
            connection.execute(f"PRAGMA {setting}")
        for reached, step in enumerate(migrations, version + 1):
            connection.executescript(
                f"BEGIN IMMEDIATE; {step}; PRAGMA application_id = {_APPLICATION_ID}; "
                f"PRAGMA user_version = {reached}; COMMIT;"
            )
    except BaseException:
        connection.close()  # a step that failed half-way is undone
        raise
    return connection
