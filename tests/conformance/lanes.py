"""The suite on every lane: each era of a client, through the daemon, to each era of a server."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

from tests.cli.exai_process import Shell
from tests.conformance.comparison import Comparison, compare, expected_failures
from tests.conformance.suite_run import judge_server
from tests.conformance.targets import fixture, transparent_daemon

HANDSHAKE, STATELESS = "2025-11-25", "2026-07-28"
FIXTURE_ARGUMENTS = {HANDSHAKE: ("--handshake",), STATELESS: ()}


class Lane(NamedTuple):
    """The version of the specification that a client speaks, and the one that a server speaks."""

    client: str
    server: str

    def __str__(self) -> str:
        return f"{self.client} to {self.server}"


LANES = tuple(Lane(client, server) for client in FIXTURE_ARGUMENTS for server in FIXTURE_ARGUMENTS)


async def compare_lanes(lanes: Sequence[Lane], work_dir: Path) -> list[Comparison]:
    """Run the suite on these lanes and, to compare, without a daemon."""
    comparisons = []
    async with AsyncExitStack() as running:
        fixture_url = await running.enter_async_context(fixture())
        urls = {
            server: await running.enter_async_context(
                transparent_daemon(
                    Shell(new_folder(work_dir / "homes" / server)), *FIXTURE_ARGUMENTS[server]
                )
            )
            for server in sorted({lane.server for lane in lanes})
        }
        for client in sorted({lane.client for lane in lanes}):
            its_lanes = [lane for lane in lanes if lane.client == client]
            direct, *relayed = await asyncio.gather(
                judge_server(fixture_url, client, new_folder(work_dir / client)),
                *(
                    judge_server(urls[lane.server], client, new_folder(work_dir / str(lane)))
                    for lane in its_lanes
                ),
            )
            comparisons += [
                compare(str(lane), direct, through, expected_failures(str(lane)))
                for lane, through in zip(its_lanes, relayed, strict=True)
            ]
    return comparisons


def new_folder(path: Path) -> Path:
    """Make a folder, and return it."""
    path.mkdir(parents=True)
    return path
