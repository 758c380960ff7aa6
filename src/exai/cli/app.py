"""The command line of EXAI: commands, options and help.

Imports nothing that is heavy before a command needs it, so that `--help` is quick.
"""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from exai.cli.exit_codes import MEANINGS
from exai.cli.ledger_app import ledger_app
from exai.cli.options import (
    As,
    ConfigFile,
    Host,
    HttpPort,
    HttpUrl,
    McpConfig,
    Output,
    Port,
    StateDir,
    Store,
    Url,
)
from exai.cli.upstream_app import upstream_app

_EXIT_CODES = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
_EPILOG = (
    "\b\nExamples:\n"
    "  exai serve --mcp-config mcp.json\n"
    "  exai tools\n"
    "  exai call echo text=hello\n"
    f"\n\b\nExit status:\n{_EXIT_CODES}"
)

app = typer.Typer(
    help="One daemon that many AI agents share: tools of language models and MCP servers.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.command(
    epilog="\b\nExamples:\n"
    "  exai serve\n"
    "  exai serve --mcp-config mcp.json --port 9000\n"
    "  EXAI_WS_TOKEN=file:/run/secrets/exai exai serve --host 0.0.0.0"
)
def serve(
    config: ConfigFile = None,
    mcp_config: McpConfig = None,
    host: Host = None,
    port: Port = None,
    http_port: HttpPort = None,
    state_dir: StateDir = None,
    store: Store = None,
    check: Annotated[
        bool, typer.Option("--check", help="Say whether a daemon would start; start none.")
    ] = False,
) -> None:
    """Run the daemon in the foreground.

    It prints one line when it is ready. SIGTERM and Ctrl-C let it finish what runs; a
    second one ends it at once. SIGHUP replaces it in place, as `exai reload --upgrade` does.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.serve_command import run_serve

    command_line = CommandLine(
        config=config,
        mcp_config=mcp_config,
        host=host,
        port=port,
        http_port=http_port,
        state_dir=state_dir,
        store=store,
    )
    raise typer.Exit(run_serve(command_line, only_check=check))


@app.command(
    epilog="\b\nExamples:\n"
    "  exai call echo text=hello\n"
    '  exai call chat prompt="Why is the sky blue?" temperature=0.2\n'
    "  exai call box__search query=stars limit=5 'tags:=[\"new\"]'\n"
    '  exai call echo --json \'{"text": "hello"}\' -o json'
)
def call(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help="A name that `exai tools` lists.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="An argument, read as the tool's schema asks; KEY:=JSON is taken as it is.",
            show_default=False,
        ),
    ] = None,
    json: Annotated[
        str | None,
        typer.Option(
            "--json",
            metavar="OBJECT",
            help="All arguments as one JSON object; - reads it from stdin.",
            show_default=False,
        ),
    ] = None,
    timeout_s: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", help="Give up then.", show_default=False),
    ] = None,
    output: Output = "text",
    url: Url = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Call a tool and print its answer.

    Streamed text appears as it comes, progress goes to stderr. Ctrl-C cancels the call.
    """
    from exai.cli.call_command import CallOrder, run_call
    from exai.cli.config_file import CommandLine

    order = CallOrder(
        tool=tool,
        pairs=arguments or [],
        json_text=json,
        timeout_s=timeout_s,
        as_json=output == "json",
    )
    raise typer.Exit(run_call(order, CommandLine(config=config, state_dir=state_dir), url, as_))


@app.command(
    epilog="\b\nExamples:\n"
    "  exai bridge\n"
    "  exai bridge --autostart --mcp-config mcp.json\n"
    "\n\b\nIn an IDE's mcp.json:\n"
    '  {"mcpServers": {"exai": {"command": "exai", "args": ["bridge", "--autostart"]}}}'
)
def bridge(
    autostart: Annotated[
        bool,
        typer.Option("--autostart", help="Start the daemon if none runs; it goes on after us."),
    ] = False,
    patience_s: Annotated[
        float,
        typer.Option("--patience", metavar="SECONDS", help="How long a call waits for a daemon."),
    ] = 30.0,
    url: Url = None,
    as_: As = None,
    config: ConfigFile = None,
    mcp_config: McpConfig = None,
    state_dir: StateDir = None,
) -> None:
    """Be an MCP server on stdin and stdout, for a program that speaks nothing else.

    An IDE starts it; the daemon does the work, and its restart is not noticed. It ends with its
    input, and with the process that started it. What it has to say to people goes to stderr.
    """
    from exai.cli.bridge_command import BridgeOrder, run_bridge
    from exai.cli.config_file import CommandLine

    order = BridgeOrder(url=url, principal=as_, autostart=autostart, patience_s=patience_s)
    command_line = CommandLine(config=config, mcp_config=mcp_config, state_dir=state_dir)
    raise typer.Exit(run_bridge(order, command_line))


@app.command(epilog="\b\nExamples:\n  exai tools\n  exai tools -o json | jq -r '.[].name'")
def tools(
    output: Output = "text",
    url: Url = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """List the tools that can be called, with their arguments."""
    from exai.cli.config_file import CommandLine
    from exai.cli.tools_command import run_tools

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(run_tools(command_line, url, as_, as_json=output == "json"))


@app.command(
    epilog="\b\nExamples:\n"
    "  exai status\n"
    "  exai status -o json | jq .loop_lag\n"
    "  until exai status > /dev/null 2>&1; do sleep 1; done"
)
def status(
    output: Output = "text",
    url: HttpUrl = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Print how the daemon fares: what runs and waits, its limits, its providers and servers.

    It ends with 0 if the daemon is ready, with 9 if it starts or stops, and with 4 if none answers.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.status_command import run_status

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(run_status(command_line, url, as_, as_json=output == "json"))


@app.command(
    epilog="\b\nExamples:\n"
    "  exai explain req-7\n"
    "  exai explain req-7 -o json | jq -r '.calls[].state'"
)
def explain(
    id_: Annotated[str, typer.Argument(metavar="REQUEST_ID", help="A request id, or a call id.")],
    output: Output = "text",
    url: HttpUrl = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Tell what became of a call: when it came, waited, ran and ended, where, and how.

    Only calls of the identity that asks are known, the newest 20 of a request id. It ends with
    11 where nothing is known.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.explain_command import run_explain

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(run_explain(command_line, id_, url, as_, as_json=output == "json"))


@app.command(
    epilog="\b\nExamples:\n"
    "  exai reload\n"
    "  exai reload --upgrade\n"
    "  systemctl reload exai  # as --upgrade"
)
def reload(
    upgrade: Annotated[
        bool, typer.Option("--upgrade", help="Replace the daemon by what is installed now.")
    ] = False,
    output: Output = "text",
    url: HttpUrl = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Have the daemon that runs read its MCP servers again, and print what has changed.

    Servers that are the same go on, and so do all sessions. With --upgrade the daemon is
    replaced by what is installed and configured now: its process and its ports stay, and who
    connects meanwhile waits. What is wrong with the configuration is said, and changes nothing.
    """
    from exai.cli.config_file import CommandLine

    command_line = CommandLine(config=config, state_dir=state_dir)
    if upgrade:
        from exai.cli.upgrade_command import run_upgrade

        raise typer.Exit(run_upgrade(command_line))
    from exai.cli.reload_command import run_reload

    raise typer.Exit(run_reload(command_line, url, as_, as_json=output == "json"))


@app.command(
    epilog="\b\nExamples:\n"
    "  exai doctor\n"
    "  exai doctor --config exai.toml --mcp-config mcp.json\n"
    "  exai doctor -o json | jq '.findings[] | select(.verdict == \"problem\")'"
)
def doctor(
    output: Output = "text",
    as_: As = None,
    config: ConfigFile = None,
    mcp_config: McpConfig = None,
    state_dir: StateDir = None,
) -> None:
    """Look at everything that a daemon needs; say what is wrong, and what to do about it.

    It changes nothing, and works with a daemon and without one. Give it what `exai serve`
    is given. It ends with 10 if it has found a problem.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.doctor_command import run_doctor

    command_line = CommandLine(config=config, mcp_config=mcp_config, state_dir=state_dir)
    raise typer.Exit(run_doctor(command_line, as_, as_json=output == "json"))


@app.command(
    name="config",
    epilog="\b\nExamples:\n"
    "  exai config --config exai.toml\n"
    "  EXAI_WS_PORT=9000 exai config -o json",
)
def config_(
    output: Output = "text",
    config: ConfigFile = None,
    mcp_config: McpConfig = None,
    state_dir: StateDir = None,
) -> None:
    """Print the effective configuration, and where each value comes from."""
    from exai.cli.config_command import run_config
    from exai.cli.config_file import CommandLine

    command_line = CommandLine(config=config, mcp_config=mcp_config, state_dir=state_dir)
    raise typer.Exit(run_config(command_line, as_json=output == "json"))


app.add_typer(upstream_app, name="upstream")
app.add_typer(ledger_app, name="ledger")

token_app = typer.Typer(no_args_is_help=True, help="Make and replace tokens.")
app.add_typer(token_app, name="token")


@token_app.command("new", epilog="\b\nExample:\n  (umask 077; exai token new > exai.token)")
def token_new() -> None:
    """Print a new token, for a configuration."""
    from exai.cli.token_command import run_token_new

    raise typer.Exit(run_token_new())


@token_app.command(
    "rotate",
    epilog="\b\nExamples:\n"
    "  exai token rotate\n"
    "  exai token rotate --as ci --grace 3600 > ci.token\n"
    "  exai token rotate --revoke-sessions",
)
def token_rotate(
    grace_s: Annotated[
        float,
        typer.Option("--grace", metavar="SECONDS", help="How long the old token stays valid."),
    ] = 0.0,
    revoke_sessions: Annotated[
        bool, typer.Option("--revoke-sessions", help="End the identity's other sessions.")
    ] = False,
    url: Url = None,
    as_: As = None,
    config: ConfigFile = None,
    state_dir: StateDir = None,
) -> None:
    """Replace the token of an identity by a new one, in the daemon that runs.

    The token that the daemon made itself is replaced where it stands; any other new token
    is printed, and has to be put where the old one was configured.
    """
    from exai.cli.config_file import CommandLine
    from exai.cli.token_command import run_token_rotate

    command_line = CommandLine(config=config, state_dir=state_dir)
    raise typer.Exit(
        run_token_rotate(command_line, url, as_, grace_s=grace_s, revoke_sessions=revoke_sessions)
    )


@app.command(epilog="\b\nExamples:\n  exai version\n  exai version -o json")
def version(output: Output = "text") -> None:
    """Print what runs here."""
    from exai.cli.version_command import run_version

    raise typer.Exit(run_version(as_json=output == "json"))


def main() -> None:
    """Run the command that the process was started with."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a locale may lack a letter
    app(prog_name="exai")
