"""`exai upstream list` and `restart`: how MCP servers fare, for people and for programs."""

from collections.abc import Iterator
from urllib.parse import quote

import msgspec

from exai.cli.columns import aligned
from exai.cli.config_file import CommandLine
from exai.cli.daemon_request import DaemonRequests, Ended
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain, write, write_json
from exai.cli.words import duration_in_words
from exai.core.upstream_reports import UpstreamReport, UpstreamReports

_RESTART_PATIENCE_S = 45.0
_READY = "ready"


def run_upstream_list(
    command_line: CommandLine, url: str | None, principal: str | None, *, as_json: bool
) -> ExitCode:
    """Print every server that this identity may know of."""
    try:
        daemon = DaemonRequests(command_line, url, principal, "how its MCP servers fare")
        reports = daemon.get("/upstreams", UpstreamReports)
    except Ended as ended:
        return ended.status
    if as_json:
        write_json(msgspec.to_builtins(reports))
    else:
        write("".join(_picture(reports.upstreams)) or "no MCP servers\n")
    return ExitCode.OK


def run_upstream_restart(
    command_line: CommandLine,
    name: str,
    url: str | None,
    principal: str | None,
    *,
    as_json: bool,
) -> ExitCode:
    """Have a server restarted; the status says whether it is ready again."""
    try:
        daemon = DaemonRequests(command_line, url, principal, "how its MCP servers fare")
        path = f"/upstreams/{quote(name, safe='')}/restart"
        report = daemon.post(path, UpstreamReport, patience_s=_RESTART_PATIENCE_S)
    except Ended as ended:
        return ended.status
    if as_json:
        write_json(msgspec.to_builtins(report))
    if report.state != _READY:
        said = f"exai upstream logs {name}"
        complain(f"{name} is not ready: {state_of(report)}; for what it said, see {said}")
        return ExitCode.CALL_FAILED
    if not as_json:
        write(f"{name} is ready{_process(report)}, with {len(report.tools)} tools\n")
    return ExitCode.OK


def state_of(report: UpstreamReport) -> str:
    """Return the state in words for people."""
    words = report.state.replace("_", " ")
    if report.last_end and report.state != _READY:
        words += f": {report.last_end}"
    if report.retry_in_s:
        words += f" (tried again in {duration_in_words(report.retry_in_s)})"
    return words


def _picture(reports: list[UpstreamReport]) -> Iterator[str]:
    header = (
        "NAME",
        "KIND",
        "INSTANCE",
        "STATE",
        "PID",
        "PROTOCOL",
        "TOOLS",
        "RUNNING",
        "STARTS",
        "AT",
    )
    yield from aligned([header, *map(_row, reports)] if reports else [])
    for report in reports:
        for tool, reason in report.unavailable.items():
            yield from aligned([(f"{report.name}: {tool} is not offered", reason)])


def _row(report: UpstreamReport) -> tuple[str, ...]:
    return (
        report.name,
        report.kind,
        report.instance,
        state_of(report),
        str(report.pid or "-"),
        report.protocol_version or "-",
        str(len(report.tools)),
        str(report.running_count),
        str(report.start_count),
        report.url or report.command or "",
    )


def _process(report: UpstreamReport) -> str:
    return f" (pid {report.pid})" if report.pid else ""
