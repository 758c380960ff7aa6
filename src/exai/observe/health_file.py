"""The health report in a file, for whoever looks at files: always whole, never old.

A reader that finds it missing, or `t` older than two intervals, knows that no daemon lives.
"""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from exai.stores.atomic_file import replace_file

HEALTH_FILE = "ws_daemon.health.json"
"""Its name in the state directory."""

_encode = msgspec.json.Encoder().encode


class HealthFile:
    """Writes what `report` returns to `path`."""

    def __init__(self, path: Path, report: Callable[[], dict[str, Any]]) -> None:
        self._path = path
        self._report = report

    async def write(self) -> None:
        """Replace the file, in a thread. Raises `OSError`."""
        await asyncio.to_thread(replace_file, self._path, _encode(self._report()), durable=False)

    def remove(self) -> None:
        """Take the file away: the daemon that it speaks of has ended."""
        self._path.unlink(missing_ok=True)
