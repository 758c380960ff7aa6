"""Programs that run on Node, from the tests' own packages."""

import asyncio
import os
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

from tests.cli.exai_process import Ended, ended

NODE_BIN = Path(__file__).parent.parent / "node_modules" / ".bin"


async def run_node(home: Path, *arguments: str) -> Ended:
    """Run one to its end, with nothing of this machine's environment."""
    process = await asyncio.create_subprocess_exec(
        *(str(NODE_BIN / "node"), *arguments),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env={"HOME": str(home), "PATH": os.defpath},
    )
    return await ended(process)
