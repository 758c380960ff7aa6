"""One daemon per state directory, by a lock that the kernel gives back when we die."""

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_LOOKS_OUTWAITED = 5
_A_LOOK_S = 0.01


class AlreadyRunning(Exception):
    """Another daemon holds this state directory."""


class InstanceLock:
    """An exclusive `flock` on `daemon.lock`, held while the context is open.

    The file is never removed: removing it would let two processes lock two files of one
    name. It holds the owner's pid, for the message alone.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = _lock_path(state_dir)
        self._fd = -1

    def __enter__(self) -> Self:
        """Take the lock; raises `AlreadyRunning`, or `OSError` for an unusable directory."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _lock_outwaiting_looks(fd):
            owner = _owner_in(fd)
            os.close(fd)
            raise AlreadyRunning(
                f"another EXAI daemon (pid {owner or 'unknown'}) uses the state directory "
                f"{self._path.parent}; stop it, or start this one with --state-dir"
            )
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lock back."""
        os.close(self._fd)


class Holder(NamedTuple):
    """Who holds a state directory; `pid` as it stands in the lock's file, if it does."""

    pid: int | None


def find_holder(state_dir: Path) -> Holder | None:
    """Return the daemon that runs on this state directory. Raises `OSError`.

    Looks by sharing the lock for a moment, which a daemon that starts just then outwaits.
    """
    try:
        fd = os.open(_lock_path(state_dir), os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return None if _lock(fd, fcntl.LOCK_SH) else Holder(_owner_in(fd))
    finally:
        os.close(fd)


def _lock_path(state_dir: Path) -> Path:
    return state_dir / "daemon.lock"


def _lock_outwaiting_looks(fd: int) -> bool:
    """Take the lock, also where somebody shares it for a moment to see whether it is held."""
    for _ in range(_LOOKS_OUTWAITED):
        if _lock(fd, fcntl.LOCK_EX):
            return True
        time.sleep(_A_LOOK_S)
    return _lock(fd, fcntl.LOCK_EX)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _owner_in(fd: int) -> int | None:
    written = os.pread(fd, 32, 0).strip()
    return int(written) if written.isdigit() else None
