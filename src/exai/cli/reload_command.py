"""`exai reload`: has the daemon read its MCP servers again, and says what has changed."""

from collections.abc import Iterator

import msgspec

from exai.cli.config_faults import show_warnings
from exai.cli.config_file import CommandLine
from exai.cli.daemon_request import DaemonRequests, Ended
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain, write, write_json
from exai.core.upstream_reports import ReloadReport

_PATIENCE_S = 30.0
_FAULTY = 422


def run_reload(
    command_line: CommandLine, url: str | None, principal: str | None, *, as_json: bool
) -> ExitCode:
    """Print what a reload changed; what is wrong with the configuration changes nothing."""
    try:
        daemon = DaemonRequests(command_line, url, principal, "what a reload changes")
        report = daemon.post("/reload", ReloadReport, patience_s=_PATIENCE_S, also=_FAULTY)
    except Ended as ended:
        return ended.status
    show_warnings(report.warnings)
    for problem in report.problems:
        complain(problem)
    if as_json:
        write_json(msgspec.to_builtins(report))
    elif not report.problems:
        write("".join(_lines(report)))
    if report.for_a_restart and not as_json:
        keys = ", ".join(report.for_a_restart)
        complain(f"these hold only after a restart (exai reload --upgrade): {keys}")
    return ExitCode.USAGE if report.problems else ExitCode.OK


def _lines(report: ReloadReport) -> Iterator[str]:
    changes = {
        "added": report.added,
        "removed": report.removed,
        "restarted": report.restarted,
        "changed without a restart": report.adjusted,
    }
    for what, names in changes.items():
        if names:
            yield f"{what}: {', '.join(names)}\n"
    if not any(changes.values()):
        yield "no MCP server has changed\n"
