"""One daemon per state directory, by a lock that the kernel gives back when we die."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self


class AlreadyRunning(Exception):
    """Another daemon holds this state directory."""


class InstanceLock:
    """An exclusive `flock` on `daemon.lock`, held while the context is open.

    The file is never removed: removing it would let two processes lock two files of one
    name. It holds the owner's pid, for the message alone.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "daemon.lock"
        self._fd = -1

    def __enter__(self) -> Self:
        """Take the lock; raises `AlreadyRunning`, or `OSError` for an unusable directory."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise AlreadyRunning(
                f"another EXAI daemon (pid {owner}) uses the state directory "
                f"{self._path.parent}; stop it, or start this one with --state-dir"
            ) from None
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
