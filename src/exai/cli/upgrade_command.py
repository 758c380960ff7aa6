"""`exai reload --upgrade`: has the daemon replaced in place, and says what came of it.

Asks by SIGHUP. What came of it is read where the daemon itself leaves it, in the address file,
so that no token is needed.
"""

import os
import signal
import time
from pathlib import Path

from exai.cli.address_file import Address, find_address
from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.daemon_door import Door, NoDoor
from exai.cli.daemon_health import ask_health
from exai.cli.daemon_http import NoAnswer
from exai.cli.exit_codes import ExitCode
from exai.cli.successor_check import CHECK_WITHIN_S
from exai.cli.terminal import complain, write
from exai.cli.time_to_end import time_to_end_s
from exai.core.clock import SystemClock
from exai.core.config import ServerConfig
from exai.stores.instance_lock import find_holder, is_held_by

_A_LOOK_S = 0.02
_OPENS_WITHIN_S = 30.0


class _NotReplaced(Exception):
    """The daemon was not replaced; the arguments are what to say, and the status to end with."""


def run_upgrade(command_line: CommandLine) -> ExitCode:
    """Have the daemon of the state directory replaced, and wait until its successor is ready."""
    try:
        config = load_config(command_line, for_client=True).config
        clock = SystemClock()
        begun_at = clock.monotonic_s()
        before = _find_daemon(config.state_dir)
        _ask(before.pid)
        after = _wait_for_successor(config.state_dir, before, _patience_s(config.server), clock)
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except _NotReplaced as failure:
        sentence, status = failure.args
        complain(sentence)
        return ExitCode(status)
    except KeyboardInterrupt:
        complain("not waited for; the upgrade goes on")
        return ExitCode.INTERRUPTED
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}; ask as the user whose daemon it is")
        return ExitCode.REFUSED
    took_s = clock.monotonic_s() - begun_at
    replaced = f"exai {before.version} (pid {before.pid}) was replaced by {after.version}"
    write(f"{replaced} in {took_s:.1f} s\n")
    return ExitCode.OK


def _find_daemon(state_dir: Path) -> Address:
    holder = find_holder(state_dir)
    if holder is None:
        raise _NotReplaced(
            f"no daemon runs on {state_dir}; start one with: exai serve", ExitCode.CANNOT_CONNECT
        )
    address = find_address(state_dir)
    if address is None or address.pid != holder.pid:
        raise _NotReplaced(
            f"the daemon on {state_dir} is not ready: it starts, or it stops", ExitCode.NOT_READY
        )
    if not is_held_by(state_dir, address.pid):
        raise _NotReplaced(
            f"the daemon on {state_dir} says that it is process {address.pid}, which is another "
            "one here: it may run in a container",
            ExitCode.REFUSED,
        )
    if not address.instance:
        raise _NotReplaced(
            f"the daemon (pid {address.pid}) is of a version that cannot be replaced in place; "
            "stop it, and start it anew",
            ExitCode.REFUSED,
        )
    return address


def _ask(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGHUP)
    except ProcessLookupError:
        raise _NotReplaced(
            f"the daemon (pid {pid}) has just ended", ExitCode.CANNOT_CONNECT
        ) from None
    except PermissionError:
        raise _NotReplaced(
            f"the daemon (pid {pid}) is another user's; ask as that user", ExitCode.REFUSED
        ) from None


def _wait_for_successor(
    state_dir: Path, before: Address, patience_s: float, clock: SystemClock
) -> Address:
    give_up_at = clock.monotonic_s() + patience_s
    while clock.monotonic_s() < give_up_at:
        address = find_address(state_dir)
        if address is not None and address.instance == before.instance:
            if address.refusal_count != before.refusal_count:
                raise _NotReplaced(
                    f"the upgrade was refused, and the daemon goes on: {address.refusal}",
                    ExitCode.REFUSED,
                )
        elif address is not None and _is_ready(address):
            return address
        if find_holder(state_dir) is None:
            raise _NotReplaced(
                f"the daemon (pid {before.pid}) has ended; its log says why",
                ExitCode.CANNOT_CONNECT,
            )
        time.sleep(_A_LOOK_S)
    raise _NotReplaced(
        f"the daemon (pid {before.pid}) was not replaced within {patience_s:g} s; "
        "its log, and exai status, say where it is",
        ExitCode.NOT_READY,
    )


def _is_ready(address: Address) -> bool:
    door = Door(address.http_url, None, "", certificate=address.certificate)
    try:
        return ask_health(door).status == "ok"
    except (NoAnswer, NoDoor):
        return False


def _patience_s(server: ServerConfig) -> float:
    """Return how long all of it may take: the check, the orderly end, the start."""
    start_s = _OPENS_WITHIN_S + server.ready_wait_s
    return CHECK_WITHIN_S + time_to_end_s(server) + start_s
