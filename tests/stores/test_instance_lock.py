"""One daemon per state directory, whatever way the last one ended."""

import fcntl
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from exai.stores.instance_lock import AlreadyRunning, Holder, InstanceLock, find_holder, is_held_by

HOLDER = """
import sys, signal
from pathlib import Path
from exai.stores.instance_lock import InstanceLock
with InstanceLock(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_holder_is_refused_with_the_first_ones_pid(tmp_path: Path) -> None:
    with (
        InstanceLock(tmp_path),
        pytest.raises(AlreadyRunning, match=r"pid \d+.*--state-dir"),
        InstanceLock(tmp_path),
    ):
        pass


def test_the_lock_can_be_taken_again_after_it_was_given_back(tmp_path: Path) -> None:
    for _ in range(2):
        with InstanceLock(tmp_path):
            pass


def test_the_directory_and_the_file_are_private(tmp_path: Path) -> None:
    with InstanceLock(tmp_path / "state" / "exai"):
        directory = (tmp_path / "state" / "exai").stat()
        file = (tmp_path / "state" / "exai" / "daemon.lock").stat()
    assert stat.S_IMODE(directory.st_mode) == 0o700
    assert stat.S_IMODE(file.st_mode) == 0o600


def test_a_killed_holder_leaves_no_lock_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=f"pid {holder.pid}"), InstanceLock(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=10)
    with InstanceLock(tmp_path):
        pass


def test_who_holds_the_lock_is_seen_without_taking_it(tmp_path: Path) -> None:
    assert find_holder(tmp_path / "nowhere") is None
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_text("")
    assert find_holder(tmp_path / "file") is None
    with InstanceLock(tmp_path):
        assert find_holder(tmp_path) == Holder(os.getpid())
        (tmp_path / "daemon.lock").write_text("")
        assert find_holder(tmp_path) == Holder(None)
    assert find_holder(tmp_path) is None


def test_a_start_outwaits_somebody_who_only_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with InstanceLock(tmp_path):
        pass
    with (tmp_path / "daemon.lock").open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr(time, "sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with InstanceLock(tmp_path):
            assert find_holder(tmp_path) == Holder(os.getpid())


def test_a_lock_that_was_inherited_was_never_free(tmp_path: Path) -> None:
    with InstanceLock(tmp_path) as first:
        left = os.dup(first.descriptor)
    with InstanceLock(tmp_path, left) as heir:
        assert heir.descriptor == left
        assert find_holder(tmp_path) == Holder(os.getpid())
        InstanceLock(tmp_path, os.dup(left)).rehearse()
        with pytest.raises(AlreadyRunning):
            InstanceLock(tmp_path).rehearse()
    assert find_holder(tmp_path) is None


def test_the_inherited_lock_of_another_directory_is_given_back(tmp_path: Path) -> None:
    with InstanceLock(tmp_path / "old") as first:
        left = os.dup(first.descriptor)
    with InstanceLock(tmp_path / "new", left):
        assert find_holder(tmp_path / "old") is None
        assert find_holder(tmp_path / "new") == Holder(os.getpid())


def test_a_rehearsal_leaves_the_lock_free_and_its_file_as_it_is(tmp_path: Path) -> None:
    with InstanceLock(tmp_path):
        pass
    (tmp_path / "daemon.lock").write_text("1\n")
    InstanceLock(tmp_path).rehearse()
    assert (tmp_path / "daemon.lock").read_text() == "1\n"
    assert find_holder(tmp_path) is None


def test_who_has_the_lock_open_is_known_from_who_has_its_pid(tmp_path: Path) -> None:
    with InstanceLock(tmp_path):
        assert is_held_by(tmp_path, os.getpid())
        assert not is_held_by(tmp_path, os.getppid())
        assert not is_held_by(tmp_path, 2**22 + 1)
