"""`exai version`: what runs here."""

import platform
from importlib.metadata import version

from exai.cli.exit_codes import ExitCode
from exai.cli.terminal import write, write_json


def run_version(*, as_json: bool) -> ExitCode:
    """Print the versions that a report of a fault should name."""
    exai = version("exai")
    python, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    if as_json:
        write_json({"exai": exai, "python": python, "platform": system})
    else:
        write(f"exai {exai} (Python {python}, {system})\n")
    return ExitCode.OK
