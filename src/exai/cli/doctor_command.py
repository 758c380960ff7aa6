"""`exai doctor`: looks at everything that a daemon needs, and says what is wrong and what to do.

It changes nothing, and works with a daemon and without one.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from exai.cli.checks.daemon_checks import daemon, token
from exai.cli.checks.evidence import Evidence, gather
from exai.cli.checks.finding import Finding, Verdict, ok, problem, warning
from exai.cli.checks.ledger_checks import disk_space, ledger
from exai.cli.checks.machine_checks import certificate, descriptors, ports
from exai.cli.checks.provider_checks import providers
from exai.cli.checks.server_checks import mcp_servers
from exai.cli.checks.state_checks import address_file, health_file, state_directory
from exai.cli.columns import aligned
from exai.cli.config_file import CommandLine, ConfigProblems, LoadedConfig, load_config
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import write, write_json

Check = Callable[[Evidence], Iterator[Finding]]

CHECKS: dict[str, Check] = {
    "state directory": state_directory,
    "ledger": ledger,
    "disk space": disk_space,
    "daemon": daemon,
    "address file": address_file,
    "health file": health_file,
    "ports": ports,
    "token": token,
    "certificate": certificate,
    "descriptors": descriptors,
    "MCP servers": mcp_servers,
    "providers": providers,
}
"""In the order in which they are told: what later ones rest on comes first."""

NEED_THE_STATE_DIRECTORY = {"ledger", "daemon", "address file", "health file", "token"}


def run_doctor(command_line: CommandLine, principal: str | None, *, as_json: bool) -> ExitCode:
    """Print what each check has found."""
    findings = list(_examine(command_line, principal))
    counts = Counter(finding.verdict for finding in findings)
    if as_json:
        write_json(
            {
                "problems": counts["problem"],
                "warnings": counts["warning"],
                "findings": msgspec.to_builtins(findings),
            }
        )
    else:
        write("".join(_lines(findings)))
        write(f"\n{_counted(counts, 'problem')}, {_counted(counts, 'warning')}\n")
    return ExitCode.PROBLEM_FOUND if counts["problem"] else ExitCode.OK


def _examine(command_line: CommandLine, principal: str | None) -> Iterator[Finding]:
    try:
        loaded = load_config(command_line)
    except ConfigProblems as wrong:
        yield from (problem("configuration", fault) for fault in wrong.problems)
        yield from (warning("configuration", sentence) for sentence in wrong.warnings)
        yield from _examine_without_what_is_wrong(command_line, principal)
    else:
        yield _whence(loaded)
        yield from (warning("configuration", sentence) for sentence in loaded.warnings)
        yield from _check(gather(loaded, principal, is_whole=True))


def _examine_without_what_is_wrong(
    command_line: CommandLine, principal: str | None
) -> Iterator[Finding]:
    """Check what can be checked with a configuration that the daemon could not use."""
    try:
        loaded = load_config(command_line, for_client=True)
    except ConfigProblems:
        yield warning("all else", "was not checked: correct the configuration first")
    else:
        yield from _check(gather(loaded, principal, is_whole=False))


def _check(evidence: Evidence) -> Iterator[Finding]:
    for name, check in CHECKS.items():
        if evidence.is_closed and name in NEED_THE_STATE_DIRECTORY:
            yield warning(name, "cannot be seen by this user")
            continue
        try:
            yield from check(evidence)
        except OSError as error:
            yield problem(name, f"cannot be checked: {error}")


def _whence(loaded: LoadedConfig) -> Finding:
    places = ", ".join(dict.fromkeys(loaded.sources.values()))
    return ok("configuration", f"set by {places}" if places else "nothing is set: all defaults")


def _counted(counts: Counter[Verdict], verdict: Verdict) -> str:
    return f"{counts[verdict]} {verdict}{'' if counts[verdict] == 1 else 's'}"


def _lines(findings: Iterable[Finding]) -> Iterator[str]:
    def rows() -> Iterator[tuple[str, str, str]]:
        for finding in findings:
            yield finding.verdict, finding.check, finding.text
            if finding.advice:
                yield "", "", f"-> {finding.advice}"

    return aligned(rows())
