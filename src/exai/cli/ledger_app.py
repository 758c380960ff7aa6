"""`exai ledger`: its commands, options and help."""

from typing import Annotated

import typer

from exai.cli.options import ConfigFile, Output, StateDir

ledger_app = typer.Typer(
    no_args_is_help=True, help="Look into the ledger of accepted calls, and make it smaller."
)


@ledger_app.command(
    "stats",
    epilog="\b\nExamples:\n"
    "  exai ledger stats\n"
    "  exai ledger stats --state-dir /var/lib/exai -o json | jq .calls",
)
def ledger_stats(
    output: Output = "text", config: ConfigFile = None, state_dir: StateDir = None
) -> None:
    """Print what the ledger holds: its file, its calls and results, and whose they are.

    It reads the file alone, and disturbs no daemon that uses it.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.ledger_stats_command import run_ledger_stats

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(run_ledger_stats(command_line, as_json=output == "json"))


@ledger_app.command(
    "purge",
    epilog="\b\nExamples:\n"
    "  exai ledger purge\n"
    "  exai ledger purge --older-than 0 --all\n"
    "  exai ledger purge --older-than 86400 --yes",
)
def ledger_purge(
    older_than_s: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="SECONDS",
            help="Only what ended so long ago (limits.result_ttl_s).",
            show_default=False,
        ),
    ] = None,
    with_keys: Annotated[
        bool,
        typer.Option("--all", help="Also idempotency keys and conversations of that age."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing.")] = False,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Erase results of calls that have ended, forget these calls, and make the file smaller.

    Lost are the results, and the memory of the calls: who sends such a request once more has it
    executed again. A call with an idempotency key is not forgotten, only its result is erased,
    unless --all is given; then its key executes again, too, and conversations cannot be
    continued. What has not ended stays, with all that it needs: the calls that it follows, and
    the conversations of its identity.

    No daemon may use the state directory meanwhile; while one runs, results expire by themselves.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.ledger_purge_command import run_ledger_purge

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(
        run_ledger_purge(command_line, older_than_s, with_keys=with_keys, asks=not yes)
    )
