"""`exai ledger purge`: makes the ledger smaller while no daemon uses it."""

import sqlite3
import sys
from pathlib import Path

from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.exit_codes import ExitCode
from exai.cli.ledger_stats_command import why_there_is_none
from exai.cli.terminal import complain, is_confirmed, is_terminal, say, write
from exai.cli.words import duration_in_words, size_in_words
from exai.core.clock import SystemClock
from exai.stores.instance_lock import AlreadyRunning, InstanceLock, find_holder
from exai.stores.sqlite_file import DatabaseUnusable
from exai.stores.sqlite_inventory import file_bytes
from exai.stores.sqlite_purge import PurgeOrder, Waste, find_waste, purge


def run_ledger_purge(
    command_line: CommandLine, older_than_s: float | None, *, with_keys: bool, asks: bool
) -> ExitCode:
    """Erase and forget what ended so long ago, once that is confirmed where it `asks`."""
    if older_than_s is not None and not older_than_s >= 0:
        complain("--older-than: expected a number of seconds, at least 0")
        return ExitCode.USAGE
    try:
        config = load_config(command_line, for_client=True).config
        state_dir, now = config.state_dir, SystemClock().wall_s()
        age_s = config.limits.result_ttl_s if older_than_s is None else older_than_s
        order = PurgeOrder(now - age_s, with_keys)
        if find_holder(state_dir) is not None:
            return _tell_held(state_dir)
        waste = find_waste(state_dir, order)
        if waste is None:
            say(why_there_is_none(config))
            return ExitCode.OK
        if asks and not is_terminal(sys.stdin):
            complain("nobody is here to confirm it; nothing was erased: give --yes, to mean it")
            return ExitCode.USAGE
        say(f"of what ended {duration_in_words(age_s)} ago or before: {_in_words(waste)}")
        if asks and not is_confirmed("Go on?"):
            say("nothing was erased")
            return ExitCode.REFUSED
        return _purge(state_dir, order, now)
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except AlreadyRunning:
        return _tell_held(state_dir)
    except DatabaseUnusable as fault:
        complain(str(fault))
        return ExitCode.CANNOT_SERVE
    except (OSError, sqlite3.Error) as error:
        complain(f"the ledger in {state_dir} could not be made smaller: {error}")
        return ExitCode.CANNOT_SERVE


def _purge(state_dir: Path, order: PurgeOrder, now: float) -> ExitCode:
    with InstanceLock(state_dir):
        before_bytes = sum(file_bytes(state_dir))
        waste = purge(state_dir, order, now)
        after_bytes = sum(file_bytes(state_dir))
    before, after = size_in_words(before_bytes), size_in_words(after_bytes)
    write(f"gone: {_in_words(waste)}; the file had {before}, and has {after}\n")
    return ExitCode.OK


def _tell_held(state_dir: Path) -> ExitCode:
    holder = find_holder(state_dir)
    pid = "unknown" if holder is None or holder.pid is None else holder.pid
    complain(
        f"a daemon (pid {pid}) uses {state_dir}: results expire by themselves while it runs; "
        "stop it first to purge the ledger"
    )
    return ExitCode.ALREADY_RUNNING


def _in_words(waste: Waste) -> str:
    results = f"{waste.result_count} results ({size_in_words(waste.result_bytes)})"
    return f"{results}, {waste.call_count} calls, {waste.conversation_count} conversations"
