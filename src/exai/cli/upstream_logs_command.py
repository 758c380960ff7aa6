"""`exai upstream logs`: what an MCP server said lately, and says from now on."""

import time
from datetime import UTC, datetime
from urllib.parse import quote

import msgspec

from exai.cli.columns import one_line
from exai.cli.config_file import CommandLine
from exai.cli.daemon_request import DaemonRequests, Ended
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import write, write_json
from exai.core.upstream_reports import LogLine, UpstreamLog

_ASK_EVERY_S = 0.5
_AT_ONCE = 1000


def run_upstream_logs(
    command_line: CommandLine,
    name: str,
    url: str | None,
    principal: str | None,
    *,
    lines: int,
    follow: bool,
    as_json: bool,
) -> ExitCode:
    """Print a server's last lines; to follow, ask for more until Ctrl-C."""
    path, count, last = f"/upstreams/{quote(name, safe='')}/logs", lines, 0
    try:
        daemon = DaemonRequests(command_line, url, principal, "what its MCP servers say")
        while True:
            log = daemon.get(f"{path}?n={count}&after={last}", UpstreamLog)
            for line in log.lines:
                _show(line, as_json=as_json)
            if not follow:
                return ExitCode.OK
            last, count = max(log.last, 0), _AT_ONCE
            time.sleep(_ASK_EVERY_S)
    except Ended as ended:
        return ended.status
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED


def _show(line: LogLine, *, as_json: bool) -> None:
    if as_json:
        write_json(msgspec.to_builtins(line))
    else:
        local = datetime.fromtimestamp(line.at, UTC).astimezone()
        write(f"{local:%H:%M:%S} {one_line(line.text)}\n")
