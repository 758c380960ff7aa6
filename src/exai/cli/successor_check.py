"""Asking, before a daemon makes room, whether its successor would start: `exai serve --check`.

Runs the daemon's own command line, with the code and the configuration of now, as a process of
its own that is handed the same sockets and the same lock. Knows why it failed by what it says.
"""

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE, Process

from exai.cli.config_file import process_environment
from exai.cli.own_command import own_command
from exai.processes.succession import INHERITANCE_VARIABLE, Inheritance

CHECK_WITHIN_S = 30.0
_REASON_LENGTH = 1000
_COMPLAINT, _WARNING = "exai: ", "exai: warning: "


async def find_fault(estate: Inheritance) -> str | None:
    """Return what would keep a successor that inherits this from serving; None: nothing."""
    variable = {INHERITANCE_VARIABLE: estate.text_for(os.getpid())}
    try:
        check = await asyncio.create_subprocess_exec(
            *own_command("--check"),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
            env=process_environment() | variable,
            pass_fds=estate.numbers(),
        )
    except OSError as error:
        return f"it cannot be run: {error}"
    try:
        async with asyncio.timeout(CHECK_WITHIN_S):
            _, said = await check.communicate()
    except TimeoutError:
        return f"its check did not end within {CHECK_WITHIN_S:g} s"
    finally:
        await _end(check)
    return None if check.returncode == 0 else _reason_in(said.decode(errors="replace"), check)


async def _end(check: Process) -> None:
    if check.returncode is None:
        check.kill()
        await check.wait()


def _reason_in(said: str, check: Process) -> str:
    """Return the complaints; of what was none, as a traceback, the last line."""
    lines = [line for line in said.splitlines() if line and not line.startswith(_WARNING)]
    complaints = [line.removeprefix(_COMPLAINT) for line in lines if line.startswith(_COMPLAINT)]
    reason = "; ".join(complaints or lines[-1:]) or f"its check ended with {check.returncode}"
    return reason[:_REASON_LENGTH]
