"""One command's session with the daemon, and how it ends: the exit status and the words."""

import asyncio
import os
import signal
import ssl
from collections.abc import Awaitable, Callable

from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.daemon_door import Door, NoDoor, find_door
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain
from exai.client.daemon_client import DaemonClient
from exai.client.errors import (
    UNAUTHORIZED,
    ClientError,
    DaemonUnreachable,
    HelloRefused,
    RequestRefused,
)

_PATIENCE_S = 10.0
"""How long a lost connection is worth waiting for."""

Work = Callable[[DaemonClient], Awaitable[ExitCode]]
"""What a command does in its session."""

WorkAtDoor = Callable[[DaemonClient, Door], Awaitable[ExitCode]]
"""And where it must know how the session was opened."""


def run_in_session(
    command_line: CommandLine, url: str | None, principal: str | None, work: Work
) -> ExitCode:
    """Find the daemon, do the work, and say what went wrong, if something did."""
    return run_at_door(command_line, url, principal, lambda client, _: work(client))


def run_at_door(
    command_line: CommandLine, url: str | None, principal: str | None, work: WorkAtDoor
) -> ExitCode:
    """Do as `run_in_session` does; the work is told how the daemon was found."""
    try:
        door = find_door(load_config(command_line, for_client=True), url, principal)
        tls = door.tls_context()
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except NoDoor as wrong:
        complain(str(wrong))
        return ExitCode.USAGE
    ending = _EndingBySignal()
    try:
        return asyncio.run(_session(door, tls, work, ending))
    except asyncio.CancelledError:
        complain("cancelled")
        return ending.status
    except ClientError as error:
        return _explain(error, door)


class _EndingBySignal:
    """The first signal takes back what runs, and waits for it; the second waits for nobody."""

    def __init__(self) -> None:
        self.status = ExitCode.OK

    def watch(self) -> None:
        """Let signals end the running task."""
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._end, task, number)

    def _end(self, task: asyncio.Task[ExitCode], number: int) -> None:
        if self.status:
            os._exit(self.status)
        self.status = ExitCode(128 + number)
        task.cancel()


async def _session(
    door: Door, tls: ssl.SSLContext | None, work: WorkAtDoor, ending: _EndingBySignal
) -> ExitCode:
    ending.watch()
    async with DaemonClient(
        door.url,
        token=door.token,
        tls=tls,
        client_name="exai-cli",
        patience_s=_PATIENCE_S,
        on_connection=complain,
    ) as client:
        return await work(client, door)


def _explain(error: ClientError, door: Door) -> ExitCode:
    match error:
        case DaemonUnreachable():
            complain(f"{error}\n  start the daemon with: exai serve")
            return ExitCode.CANNOT_CONNECT
        case HelloRefused(code=code) if code == UNAUTHORIZED:
            complain(f"the daemon at {door.url} refused the token ({door.token_place})")
            return ExitCode.UNAUTHORIZED
        case HelloRefused():
            complain(f"the daemon at {door.url} lets nobody in: {error}")
            return ExitCode.CANNOT_CONNECT
        case RequestRefused(code=code):
            complain(f"{code}: {error}")
            return ExitCode.REFUSED
        case _:
            complain(str(error))
            return ExitCode.CANNOT_CONNECT
