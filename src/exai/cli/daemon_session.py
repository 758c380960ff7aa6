"""One command's session with the daemon, and how it ends: the exit status and the words."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.daemon_door import Door, NoDoor, find_door
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain
from exai.client.daemon_client import (
    UNAUTHORIZED,
    ClientError,
    DaemonClient,
    DaemonUnreachable,
    HelloRefused,
    RequestRefused,
)

Work = Callable[[DaemonClient], Awaitable[ExitCode]]
"""What a command does in its session."""


def run_in_session(
    command_line: CommandLine, url: str | None, principal: str | None, work: Work
) -> ExitCode:
    """Find the daemon, do the work, and say what went wrong, if something did."""
    try:
        door = find_door(load_config(command_line, for_client=True), url, principal)
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except NoDoor as wrong:
        complain(str(wrong))
        return ExitCode.USAGE
    try:
        return asyncio.run(_session(door, work))
    except KeyboardInterrupt:
        complain("interrupted")
        return ExitCode.INTERRUPTED
    except asyncio.CancelledError:
        complain("terminated")
        return ExitCode.TERMINATED
    except ClientError as error:
        return _explain(error, door)


async def _session(door: Door, work: Work) -> ExitCode:
    this_task = asyncio.current_task()
    assert this_task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)
    async with DaemonClient(door.url, token=door.token, client_name="exai-cli") as client:
        return await work(client)


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
