"""Checks of the MCP servers: by what the daemon says, else by what it would find."""

import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from exai.cli.checks.evidence import Evidence
from exai.cli.checks.finding import Finding, ok, problem, warning
from exai.cli.config_file import process_environment
from exai.cli.health_picture import Upstream, state_in_words
from exai.cli.masking import masked_address
from exai.core.config import UpstreamConfig
from exai.processes.environment import child_environment

_STARTING, _READY = "starting", "ready"
_CONNECT_WITHIN_S = 5.0


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
        elif fault := _fault_in(configured[name], _written(evidence, name)):
            is_http = configured[name].command is None
            source = evidence.loaded.source_of(
                f"upstreams.{name}.{'url' if is_http else 'command'}"
            )
            remedy = "start it" if is_http else "install it"
            yield problem(check, fault, f"{remedy}, or correct its entry in {source}")
        elif health is not None and health.upstreams is not None:
            yield warning(check, "the daemon that runs does not know it", "exai reload")
        elif configured[name].command is None:
            yield ok(check, f"{_written(evidence, name)} can be reached")
        else:
            yield ok(check, f"{_written(evidence, name)} can be started")


def _by_state(check: str, server: Upstream) -> Finding:
    if server.state == _READY:
        return ok(check, f"is ready, {_tools_in_words(server)}")
    if server.state == _STARTING and not server.last_end:
        return warning(check, "is starting", "try again soon")
    return problem(
        check,
        f"does not run; {state_in_words(server)}",
        f"see what it said, by exai upstream logs {server.upstream}, or run its command by hand",
    )


def _tools_in_words(server: Upstream) -> str:
    if server.shown_count == server.tool_count:
        return f"with {server.tool_count} tools"
    return f"and offers {server.shown_count} of its {server.tool_count} tools"


def _written(evidence: Evidence, name: str) -> str:
    """Return its command or address as it stands in the file: `${VAR}` shows nobody's secret."""
    written = evidence.loaded.written_servers[name]
    return str(written["command"]) if "command" in written else masked_address(str(written["url"]))


def _fault_in(server: UpstreamConfig, written: str) -> str | None:
    """Say why the daemon could not use it, if its environment is the one of this command."""
    if server.command is None:
        fault = _fault_at(server.url or "")
        return f"{written} {fault}" if fault else None
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


def _fault_at(url: str) -> str | None:
    """Say why nobody could be asked there; connects, and sends nothing but the offer of TLS."""
    address = urlsplit(url)
    host, is_tls = address.hostname or "", address.scheme == "https"
    try:
        port = address.port or (443 if is_tls else 80)
        with socket.create_connection((host, port), _CONNECT_WITHIN_S) as plain:
            if is_tls:
                ssl.create_default_context().wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return f"shows a certificate that is not trusted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"does not speak TLS: {error.reason or error}"
    except socket.gaierror:
        return f"cannot be found: nobody knows {host}"
    except (OSError, ValueError) as error:
        return f"cannot be reached: {getattr(error, 'strerror', None) or error}"
    return None
