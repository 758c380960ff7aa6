"""`exai upstream`: its commands, options and help."""

from typing import Annotated

import typer

from exai.cli.options import As, ConfigFile, HttpUrl, Output, StateDir

upstream_app = typer.Typer(
    no_args_is_help=True, help="Look after the MCP servers of the daemon that runs."
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that `list` shows.")]


@upstream_app.command(
    "list",
    epilog="\b\nExamples:\n"
    "  exai upstream list\n"
    "  exai upstream list -o json | jq '.upstreams[].name'",
)
def upstream_list(
    output: Output = "text",
    url: HttpUrl = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Print how each MCP server fares, and which of its tools are offered."""
    from exai.cli.config_file import CommandLine
    from exai.cli.upstream_command import run_upstream_list

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(run_upstream_list(command_line, url, as_, as_json=output == "json"))


@upstream_app.command("restart", epilog="\b\nExample:\n  exai upstream restart box")
def upstream_restart(
    name: Name,
    output: Output = "text",
    url: HttpUrl = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """End an MCP server and start it again; wait until it is ready.

    Its running calls end as if it had crashed; those that have not begun wait for it.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.upstream_command import run_upstream_restart

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(run_upstream_restart(command_line, name, url, as_, as_json=output == "json"))


@upstream_app.command(
    "logs",
    epilog="\b\nExamples:\n  exai upstream logs box\n  exai upstream logs box -n 20 --follow",
)
def upstream_logs(
    name: Name,
    lines: Annotated[
        int, typer.Option("--lines", "-n", metavar="N", min=0, help="So many of the last lines.")
    ] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")
    ] = False,
    output: Output = "text",
    url: HttpUrl = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Print what an MCP server said lately on stderr, and when it started and ended."""
    from exai.cli.config_file import CommandLine
    from exai.cli.upstream_logs_command import run_upstream_logs

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(
        run_upstream_logs(
            command_line, name, url, as_, lines=lines, follow=follow, as_json=output == "json"
        )
    )
