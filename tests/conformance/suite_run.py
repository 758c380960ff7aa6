"""Runs of `@modelcontextprotocol/conformance`: what it says of each check of a server or client."""

import asyncio
import json
import re
from asyncio.subprocess import DEVNULL, STDOUT
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

NODE_BIN = Path(__file__).parent.parent / "node_modules" / ".bin"
RUN_S = 120.0
PASSING = frozenset({"SUCCESS", "INFO", "SKIPPED"})
_MOST_SEVERE_FIRST = ("FAILURE", "WARNING", "SUCCESS", "INFO", "SKIPPED")
_FOLDER = re.compile(r"(?:server-)?(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


class Verdict(NamedTuple):
    """What became of one check; where an id occurs more than once, the worst of it."""

    status: str
    message: str

    @property
    def is_passing(self) -> bool:
        """Tell whether nothing is wrong; a warning says that something is."""
        return self.status in PASSING


Verdicts = Mapping[str, Mapping[str, Verdict]]
"""By scenario and check."""


async def judge_server(url: str, spec_version: str, results_dir: Path) -> Verdicts:
    """Run all scenarios for a server of a version of the specification; the folder is there."""
    await _run(
        *("server", "--url", url, "--suite", "all"),
        *("--spec-version", spec_version, "--output-dir", str(results_dir)),
        output=results_dir / "output.txt",
    )
    return _verdicts_in(results_dir)


async def judge_client(
    command: str, scenario: str, spec_version: str, results_dir: Path
) -> Verdicts:
    """Run one scenario for a client, which the command starts; the folder is there."""
    await _run(
        *("client", "--command", command, "--scenario", scenario),
        *("--spec-version", spec_version, "--output-dir", str(results_dir)),
        output=results_dir / "output.txt",
    )
    return _verdicts_in(results_dir)


async def _run(*arguments: str, output: Path) -> None:
    with output.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            *(str(NODE_BIN / "node"), str(NODE_BIN / "conformance"), *arguments),
            stdin=DEVNULL,
            stdout=said,
            stderr=STDOUT,
        )
        try:
            async with asyncio.timeout(RUN_S):
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


def _verdicts_in(results_dir: Path) -> Verdicts:
    verdicts: dict[str, dict[str, Verdict]] = {}
    for file in sorted(results_dir.glob("*/checks.json")):
        folder = _FOLDER.fullmatch(file.parent.name)
        if folder is None:
            raise RuntimeError(f"the suite names its results in another way: {file.parent.name}")
        checks = verdicts.setdefault(folder["scenario"], {})
        for check in json.loads(file.read_text()):
            verdict = Verdict(check["status"], check.get("errorMessage") or "")
            known = checks.get(check["id"], verdict)
            checks[check["id"]] = min(verdict, known, key=_severity)
    if not any(verdicts.values()):
        raise RuntimeError((results_dir / "output.txt").read_text())
    return verdicts


def _severity(verdict: Verdict) -> int:
    return _MOST_SEVERE_FIRST.index(verdict.status)
