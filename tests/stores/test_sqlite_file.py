"""A database is opened, brought up to date, or refused and left as it was."""

import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from exai.stores.sqlite_file import FILE_NAME, DatabaseUnusable, Synchronous, open_database
from exai.stores.sqlite_schema import MIGRATIONS

FIRST = "CREATE TABLE cities (name TEXT); INSERT INTO cities VALUES ('Ur')"
SECOND = "ALTER TABLE cities ADD COLUMN people INTEGER; UPDATE cities SET people = 60000"


def test_a_new_database_is_ours_alone_and_so_is_what_lies_beside_it(tmp_path: Path) -> None:
    with closing(open_database(tmp_path)):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {f"{FILE_NAME}{end}": 0o600 for end in ("", "-wal", "-shm")}


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
def test_it_is_set_up_for_many_small_writes_that_last(
    tmp_path: Path, synchronous: Synchronous, level: int
) -> None:
    with closing(open_database(tmp_path, synchronous=synchronous)) as connection:
        assert setting(connection, "journal_mode") == "wal"
        assert setting(connection, "synchronous") == level
        assert setting(connection, "secure_delete") == 1
        assert setting(connection, "foreign_keys") == 1
        assert setting(connection, "user_version") == len(MIGRATIONS)


def test_nothing_is_left_beside_a_closed_database(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_database_of_an_older_version_is_brought_up_to_date(tmp_path: Path) -> None:
    open_database(tmp_path, migrations=[FIRST]).close()
    with closing(open_database(tmp_path, migrations=[FIRST, SECOND])) as connection:
        assert connection.execute("SELECT * FROM cities").fetchall() == [("Ur", 60000)]
        assert setting(connection, "user_version") == 2


def test_a_step_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    open_database(tmp_path, migrations=[FIRST]).close()
    with pytest.raises(DatabaseUnusable, match="no such table: towns"):
        open_database(tmp_path, migrations=[FIRST, f"{SECOND}; DROP TABLE towns"])
    with closing(open_database(tmp_path, migrations=[FIRST])) as connection:
        assert connection.execute("SELECT * FROM cities").fetchall() == [("Ur",)]


def test_any_name_of_a_directory_will_do(tmp_path: Path) -> None:
    odd = tmp_path / "a b?mode=memory#%20é"
    odd.mkdir()
    for _ in range(2):
        open_database(odd).close()
    assert (odd / FILE_NAME).exists()


NEXT = len(MIGRATIONS) + 1


def newer(path: Path) -> None:
    with closing(open_database(path.parent, migrations=[*MIGRATIONS, FIRST])):
        pass


def newer_and_never_closed(path: Path) -> None:
    """A version that stands in the log alone, as a killed daemon leaves it."""
    newer(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA user_version = 9")
        left = {name: name.read_bytes() for name in path.parent.iterdir()}
    for name, content in left.items():
        name.write_bytes(content)
    path.with_name(f"{FILE_NAME}-shm").unlink()


def no_database(path: Path) -> None:
    path.write_text("Dear diary, " * 1000)


def of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE bookmarks (url TEXT)")


def damaged(path: Path) -> None:
    with closing(open_database(path.parent)) as connection:
        connection.execute("INSERT INTO sessions VALUES (1, 's1', 'ann', x'00', x'')")
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'sessions'"
        ).fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * 4096 : page * 4096] = b"\xff" * 4096
    path.write_bytes(content)


def cut_short(path: Path) -> None:
    open_database(path.parent).close()
    path.write_bytes(path.read_bytes()[:5000])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (newer, rf"newer EXAI \(version {NEXT} .* this one knows {NEXT - 1}\); update"),
        (newer_and_never_closed, r"newer EXAI \(version 9 "),
        (no_database, "file is not a database.*move it away"),
        (of_another_program, "another program; move it away"),
        (damaged, r"cannot be used \(.*\); move it away.*restore it from a copy"),
        (cut_short, r"malformed.*restore it from a copy"),
    ],
)
def test_what_cannot_be_used_is_refused_and_left_as_it_was(
    tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path = tmp_path / FILE_NAME
    spoil(path)
    before = [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept_files(tmp_path)]
    with pytest.raises(DatabaseUnusable, match=message) as refused:
        open_database(tmp_path)
    assert str(path) in str(refused.value)
    assert before == [(path.read_bytes(), path.stat().st_mtime_ns) for path in kept_files(tmp_path)]


def test_a_directory_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(DatabaseUnusable, match=r"Is a directory.*move it away"):
        open_database(tmp_path)


def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).symlink_to(tmp_path / FILE_NAME)
    with pytest.raises(DatabaseUnusable, match="symbolic links"):
        open_database(tmp_path)


def test_a_directory_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="No such file"):
        open_database(tmp_path / "nowhere")


def test_a_sqlite_that_is_too_old_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(DatabaseUnusable, match=r"3\.37 or newer, or --store memory"):
        open_database(tmp_path)
    assert not list(tmp_path.iterdir())


def kept_files(directory: Path) -> list[Path]:
    """Return what holds data: the database and its log, but not the index of the log."""
    return sorted(path for path in directory.iterdir() if not path.name.endswith("-shm"))


def setting(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
