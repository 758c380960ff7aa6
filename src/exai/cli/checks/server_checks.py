"""Checks of the MCP servers: by what the daemon says, else by what it would find."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from exai.cli.checks.evidence import Evidence
from exai.cli.checks.finding import Finding, ok, problem, warning
from exai.cli.config_file import process_environment
from exai.cli.health_picture import Upstream, state_in_words
from exai.core.config import UpstreamConfig
from exai.processes.environment import child_environment

_STARTING, _READY = "starting", "ready"


def mcp_servers(evidence: Evidence) -> Iterator[Finding]:
    """Does each run, or can it be started?"""
    configured, health = evidence.loaded.config.upstreams, evidence.health
    running = {} if health is None else {one.upstream: one for one in health.upstreams or ()}
    for name in {**configured, **running}:
        check = f"MCP server {name}"
        if name in running:
            yield _by_state(check, running[name])
        elif configured[name].disabled:
            yield ok(check, "is disabled")
        elif fault := _fault_in(configured[name], str(_written_command(evidence, name))):
            source = evidence.loaded.source_of(f"upstreams.{name}.command")
            yield problem(check, fault, f"install it, or correct its entry in {source}")
        elif health is not None and health.upstreams is not None:
            yield warning(check, "the daemon that runs does not know it", "restart the daemon")
        else:
            yield ok(check, f"{_written_command(evidence, name)} can be started")


def _by_state(check: str, server: Upstream) -> Finding:
    if server.state == _READY:
        return ok(check, f"is ready, with {server.tool_count} tools")
    if server.state == _STARTING and not server.last_end:
        return warning(check, "is starting", "try again soon")
    return problem(
        check,
        f"does not run; {state_in_words(server)}",
        "see the daemon's log for what it said, or run its command by hand",
    )


def _written_command(evidence: Evidence, name: str) -> object:
    """Return the command as it stands in the file, where `${VAR}` shows nobody's secret."""
    return evidence.loaded.written_servers[name]["command"]


def _fault_in(server: UpstreamConfig, written: str) -> str | None:
    """Say why the daemon could not start it, if its environment is the one of this command."""
    if server.command is None:
        return None  # it is reached by HTTP
    if server.cwd is not None and not server.cwd.is_dir():
        return f"its directory {server.cwd} is not there"
    if "/" in server.command:
        program = (server.cwd or Path.cwd()) / server.command
        return None if _is_program(program) else f"{written} is no program that can be run"
    environment = child_environment(process_environment(), server.env)
    places = os.pathsep.join(os.get_exec_path(environment))
    found = shutil.which(server.command, path=places)
    return None if found else f"no program {written} on the PATH"


def _is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
