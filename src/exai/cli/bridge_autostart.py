"""Starting the daemon for a bridge that finds none: once, however many bridges look for it.

The daemon has a session of its own, logs to a file in the state directory, and outlives the
bridge.
"""

import asyncio
import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from exai.cli.address_file import find_address
from exai.cli.bridge_session import Starter
from exai.cli.config_file import CommandLine
from exai.cli.exit_codes import ExitCode
from exai.cli.secret_references import SecretUnreadable
from exai.cli.state_token import make_state_dir
from exai.stores.instance_lock import find_holder

_STARTS_WITHIN_S = 60.0
_A_LOOK_S = 0.05
_LOG_BYTES = 10_485_760
_TOLD_LINES = 5


class CannotStart(Exception):
    """There is no daemon, and none can be started; `status` is what `exai serve` ended with."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Autostart(Starter):
    """Starts `exai serve` on a state directory, with the options of the bridge."""

    def __init__(
        self, state_dir: Path, command_line: CommandLine, say: Callable[[str], object]
    ) -> None:
        self._state_dir = state_dir
        self._command = [sys.executable, "-m", "exai", "serve", *_options(command_line)]
        self._say = say
        self._log = state_dir / "daemon.log"
        self._was_killed = False

    async def start(self) -> None:
        """Start one, unless one runs; return when it is ready. Raises `CannotStart`."""
        self._was_killed = False
        try:
            make_state_dir(self._state_dir)
            async with asyncio.timeout(_STARTS_WITHIN_S):
                await self._start_or_wait()
        except (OSError, SecretUnreadable) as error:
            raise CannotStart(f"cannot start a daemon: {error}", ExitCode.CANNOT_SERVE) from None
        except TimeoutError:
            raise CannotStart(
                f"the daemon was not ready within {_STARTS_WITHIN_S:g} s; its log is {self._log}",
                ExitCode.CANNOT_CONNECT,
            ) from None

    async def _start_or_wait(self) -> None:
        """Whoever has the lock starts the daemon; the others wait until it can be reached."""
        while not self._is_ready():
            with _lock(self._state_dir / "autostart.lock") as is_ours:
                if is_ours and find_holder(self._state_dir) is None:
                    await self._run_daemon()
            await asyncio.sleep(_A_LOOK_S)

    def _is_ready(self) -> bool:
        holder, address = find_holder(self._state_dir), find_address(self._state_dir)
        return holder is not None and address is not None and address.pid == holder.pid

    async def _run_daemon(self) -> None:
        self._say(f"no daemon runs; starting one, which logs to {self._log}")
        daemon, begins_at = self._spawn()
        while not self._is_ready():
            status = daemon.poll()
            if status == ExitCode.ALREADY_RUNNING:
                return
            if status is not None and status < 0 and not self._was_killed:
                self._was_killed = True  # by somebody, once; it did not fail by itself
                return
            if status is not None:
                raise CannotStart(
                    f"the daemon cannot start (status {status}): {self._last_words(begins_at)}",
                    status if status > 0 else ExitCode.CANNOT_SERVE,
                )
            await asyncio.sleep(_A_LOOK_S)

    def _spawn(self) -> tuple[subprocess.Popen[bytes], int]:
        """Return the process, and where in the log its words begin."""
        with self._open_log() as log:
            begins_at = log.tell()
            daemon = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            return daemon, begins_at

    def _open_log(self) -> FileIO:
        with suppress(OSError):
            if self._log.stat().st_size > _LOG_BYTES:
                os.replace(self._log, self._log.with_suffix(".log.1"))
        fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.lseek(fd, 0, os.SEEK_END)
        return FileIO(fd, "a")

    def _last_words(self, begins_at: int) -> str:
        with self._log.open("rb") as log:
            log.seek(begins_at)
            lines = log.read(_LOG_BYTES).decode(errors="replace").splitlines()
        return "\n  ".join(lines[-_TOLD_LINES:]) or f"it said nothing; its log is {self._log}"


@contextmanager
def _lock(path: Path) -> Iterator[bool]:
    """Yield whether we have the lock, which the kernel gives back when we die."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)


def _options(command_line: CommandLine) -> list[str]:
    given = {
        "--config": command_line.config,
        "--mcp-config": command_line.mcp_config,
        "--state-dir": command_line.state_dir,
    }
    return [part for flag, value in given.items() if value for part in (flag, str(value))]
