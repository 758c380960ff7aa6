"""Stands in for the daemon: starts the commands it is given, says so, and waits to be killed."""

import asyncio
import json
import os
import sys
from pathlib import Path

from exai.processes.process_guard import ProcessGuard


async def main() -> None:
    commands: list[list[str]] = json.loads(sys.argv[1])
    env = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"]}
    async with ProcessGuard() as guard:
        for command, *args in commands:
            process = await guard.spawn(command, args, env=env, cwd=Path(sys.argv[2]))
            if sys.argv[3:] != ["silent"]:
                await process.stderr.readline()
        print("started", flush=True)  # noqa: T201
        await asyncio.sleep(600)


asyncio.run(main())
