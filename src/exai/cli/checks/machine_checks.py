"""Checks of what a daemon needs of its machine: ports, descriptors and its certificate."""

import re
import resource
from collections.abc import Iterator
from pathlib import Path

from exai.cli.checks.evidence import Evidence
from exai.cli.checks.finding import Finding, ok, problem, warning
from exai.cli.checks.listeners import find_listener
from exai.core.events import Event, EventSink
from exai.transports.server_certificate import CertificateUnusable, ServerCertificate

_DESCRIPTORS_OF_ITS_OWN = 16
_DESCRIPTORS_A_SERVER = 3


def ports(evidence: Evidence) -> Iterator[Finding]:
    """Are they free, or the daemon's that runs, or a stranger's?"""
    server, used = evidence.loaded.config.server, evidence.ports
    yield _port(evidence, "WebSocket port", "port", used[0], server.port)
    yield _port(evidence, "HTTP port", "http_port", used[1], server.http_port)


def _port(evidence: Evidence, name: str, key: str, used: int | None, configured: int) -> Finding:
    if used is not None:
        return ok(name, f"{used} is the daemon's")
    if configured == 0:
        return ok(name, "the system chooses one at each start")
    listener = find_listener(evidence.loaded.config.server.host, configured)
    if listener is None:
        return ok(name, f"{configured} is free")
    if listener.pid is not None and listener.pid == evidence.pid:
        return ok(name, f"{configured} is the daemon's")
    flag = f"--{key.replace('_', '-')}"
    return problem(
        name,
        f"{configured} is taken by {listener}",
        f"stop it, or give the daemon another port: {flag}, or server.{key}",
    )


def certificate(evidence: Evidence) -> Iterator[Finding]:
    """Can the daemon show the certificate that is configured?"""
    server = evidence.loaded.config.server
    if server.tls_certificate is None or not evidence.is_whole:
        return
    try:
        ServerCertificate(server.tls_certificate, server.tls_key, _NobodyListens()).load()
    except CertificateUnusable as fault:
        yield problem("certificate", str(fault), "see server.tls_certificate and server.tls_key")
    else:
        yield ok("certificate", str(server.tls_certificate))


class _NobodyListens(EventSink):
    def emit(self, event: Event) -> None:
        """Nothing changes while a check runs."""


def descriptors(evidence: Evidence) -> Iterator[Finding]:
    """May the daemon open as many files as it has connections to take?"""
    config, pid = evidence.loaded.config, evidence.pid
    of_daemon = _open_files_limit(pid) if pid is not None else None
    limit = of_daemon or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    whose = "the daemon" if of_daemon else "a process started here"
    servers = len(config.upstreams) * _DESCRIPTORS_A_SERVER
    needed = config.server.max_connections + servers + _DESCRIPTORS_OF_ITS_OWN
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield warning(
            "descriptors",
            f"{whose} may open {limit} files, fewer than the {needed} that "
            f"server.max_connections = {config.server.max_connections} needs",
            f"ulimit -n {needed}, or a smaller server.max_connections",
        )
    else:
        yield ok("descriptors", f"{whose} may open enough files for {needed} at once")


def _open_files_limit(pid: int) -> int | None:
    """Return how many descriptors a process may have open, where the system tells."""
    try:
        limits = Path(f"/proc/{pid}/limits").read_text()
    except OSError:
        return None
    found = re.search(r"^Max open files +(\d+|unlimited)", limits, re.M)
    if found is None:
        return None
    return resource.RLIM_INFINITY if found[1] == "unlimited" else int(found[1])
