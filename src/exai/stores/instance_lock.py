"""One daemon per state directory, by a lock that the kernel gives back when we die."""

import fcntl
import logging
import os
import stat
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_LOOKS_OUTWAITED = 5
_A_LOOK_S = 0.01

_log = logging.getLogger(__name__)


class AlreadyRunning(Exception):
    """Another daemon holds this state directory."""


class InstanceLock:
    """An exclusive `flock` on `daemon.lock`, held while the context is open.

    The file is never removed: removing it would let two processes lock two files of one
    name. It holds the owner's pid, for the message alone. `inherited` is a descriptor of the
    open file by which the program before this one, in the same process, holds the lock.
    """

    def __init__(self, state_dir: Path, inherited: int | None = None) -> None:
        self._path = _lock_path(state_dir)
        self._inherited = inherited
        self._fd = -1

    @property
    def descriptor(self) -> int:
        """The descriptor that holds the lock, as a duplicate of it would."""
        return self._fd

    def __enter__(self) -> Self:
        """Take the lock; raises `AlreadyRunning`, or `OSError` for an unusable directory."""
        self._fd = self._take()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return self

    def rehearse(self) -> None:
        """Raise what taking the lock would, and leave it and its file as they are."""
        os.close(self._take())

    def _take(self) -> int:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._inherited is not None and _take_over(self._inherited, fd):
            os.close(fd)
            fd = self._inherited
        if not _lock_outwaiting_looks(fd):
            owner = _owner_in(fd)
            os.close(fd)
            raise AlreadyRunning(
                f"another EXAI daemon (pid {owner or 'unknown'}) uses the state directory "
                f"{self._path.parent}; stop it, or start this one with --state-dir"
            )
        return fd

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


def is_held_by(state_dir: Path, pid: int) -> bool:
    """Tell whether a process has the lock's file open. Raises `PermissionError`.

    A pid in the file may be of another container, where the same number is another process.
    Where the system does not show what a process has open, it is believed.
    """
    opened = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").is_dir():
        return True
    lock = _lock_path(state_dir).stat()
    return any(_is_the_file(path, lock) for path in opened.iterdir()) if opened.exists() else False


def _is_the_file(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except FileNotFoundError:  # closed meanwhile, or no file that has a name
        return False


def _take_over(inherited: int, fd: int) -> bool:
    """Tell whether an inherited descriptor is of the lock's file; close that of another lock."""
    status = os.fstat(inherited)
    if os.path.samestat(status, os.fstat(fd)):
        return True
    if stat.S_ISREG(status.st_mode):  # the state directory is another one now
        os.close(inherited)
    else:
        _log.warning("inherited descriptor %d is no lock, and is left alone", inherited)
    return False


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
