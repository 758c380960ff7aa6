"""How the faults of a configuration are told to people."""

from exai.cli.config_file import ConfigProblems
from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import complain


def refuse_config(wrong: ConfigProblems) -> ExitCode:
    """Print everything that is wrong, the warnings first; return the status to end with."""
    show_warnings(wrong.warnings)
    for problem in wrong.problems:
        complain(problem)
    return ExitCode.USAGE


def show_warnings(warnings: list[str]) -> None:
    """Print what works, but may not be meant."""
    for warning in warnings:
        complain(f"warning: {warning}")
