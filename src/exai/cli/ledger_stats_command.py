"""`exai ledger stats`: what the ledger of a state directory holds, as its file tells."""

from collections.abc import Iterator

import msgspec

from exai.cli.columns import aligned
from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain, say, write, write_json
from exai.cli.words import moment_in_words, size_in_words
from exai.core.clock import SystemClock
from exai.core.config import Config
from exai.stores.sqlite_file import FILE_NAME, DatabaseUnusable
from exai.stores.sqlite_inventory import Inventory, take_inventory


def run_ledger_stats(command_line: CommandLine, *, as_json: bool) -> ExitCode:
    """Print what the ledger holds, or that there is none."""
    try:
        config = load_config(command_line, for_client=True).config
        inventory = take_inventory(config.state_dir)
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except DatabaseUnusable as fault:
        complain(str(fault))
        return ExitCode.CANNOT_SERVE
    if inventory is None:
        say(why_there_is_none(config))
    if as_json:
        write_json(msgspec.to_builtins(inventory))
    elif inventory is not None:
        write("".join(_picture(inventory)))
    return ExitCode.OK


def why_there_is_none(config: Config) -> str:
    """Say that a state directory has no ledger, and why."""
    if config.store.kind == "memory":
        return (
            "no ledger: accepted calls are kept in the daemon's memory (store.kind = memory); "
            "exai status tells how many"
        )
    return f"no ledger: {config.state_dir / FILE_NAME} is not there, or empty"


def _picture(inventory: Inventory) -> Iterator[str]:
    yield f"ledger {inventory.path}\n\n"
    yield from aligned(_numbers(inventory))
    if inventory.principals:
        yield "\n"
        yield from aligned(_shares(inventory))


def _numbers(inventory: Inventory) -> Iterator[tuple[str, str]]:
    yield "id", inventory.ledger_id
    yield "version", str(inventory.version)
    sizes = inventory.size_bytes, inventory.log_bytes, inventory.free_bytes
    size, log, free = map(size_in_words, sizes)
    yield "file", f"{size}, of which {free} are free; its log {log}"
    states = ", ".join(f"{count} {state}" for state, count in sorted(inventory.calls.items()))
    yield "calls", f"{inventory.total('call_count')}" + (f": {states}" if states else "")
    yield "results", size_in_words(inventory.total("result_bytes"))
    yield "keys", str(inventory.total("key_count"))
    yield "sessions", str(inventory.total("session_count"))
    texts = size_in_words(inventory.total("conversation_bytes"))
    yield "conversations", f"{inventory.total('conversation_count')}, {texts}"
    if (oldest := inventory.oldest_open) is not None:
        accepted = moment_in_words(oldest.accepted_at, SystemClock().wall_s())
        call = f"{oldest.tool}, call {oldest.call_id} of {oldest.principal}"
        yield "oldest open", f"{call}: {oldest.state}, since {accepted}"


def _shares(inventory: Inventory) -> Iterator[tuple[str, ...]]:
    yield "PRINCIPAL", "CALLS", "OPEN", "RESULTS", "KEYS", "SESSIONS", "CONVERSATIONS"
    for principal, share in sorted(inventory.principals.items()):
        results = size_in_words(share.result_bytes)
        counts = share.key_count, share.session_count, share.conversation_count
        yield principal, str(share.call_count), str(share.open_count), results, *map(str, counts)
