"""The tools that a bridge offers: those that it knew the last time, until the daemon is asked.

Kept in a file for each daemon and identity, named by a digest of both, so that nobody is shown
what another identity may use.
"""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from exai.cli.bridge_session import BridgeSession
from exai.cli.daemon_door import Door
from exai.client.errors import ClientError
from exai.stores.atomic_file import replace_file

Tools = list[dict[str, Any]]

_PAUSE_S = 1.0
_KEPT_FILES = 32


class KnownTools:
    """The last known list, kept true to the daemon's; `on_change` is called when it changes."""

    def __init__(
        self,
        directory: Path,
        on_change: Callable[[], object],
        warn: Callable[[str], object],
    ) -> None:
        self._directory = directory
        self._on_change = on_change
        self._warn = warn
        self._path: Path | None = None
        self._tools: Tools | None = None
        self._kept: Tools | None = None
        self._is_known = asyncio.Event()
        self._is_old = asyncio.Event()
        self._was_missed = False

    @property
    def tools(self) -> Tools | None:
        """The tools, as `exai.v1` lists them, if they are known."""
        return self._tools

    async def wait(self) -> Tools:
        """Return the tools as soon as they are known."""
        try:
            await self._is_known.wait()
        except asyncio.CancelledError:
            self._was_missed = True
            raise
        assert self._tools is not None
        return self._tools

    def has_output_schema(self, name: str) -> bool:
        """Tell whether a tool promises structured content; of one unknown that is assumed."""
        for tool in self._tools or ():
            if tool.get("name") == name:
                return "outputSchema" in tool
        return True

    def remember(self, door: Door) -> None:
        """Take up what was known the last time of this daemon, to whom it is asked as now."""
        path = self._directory / f"{_digest(door)}.json"
        if path == self._path:
            return
        self._path, self._kept = path, None
        try:
            known = msgspec.json.decode(path.read_bytes(), type=Tools)
        except (OSError, msgspec.MsgspecError):
            return
        self._kept = known
        if self._tools is None:
            self._tools = known
            self._is_known.set()

    def look_again(self) -> None:
        """Take note that the daemon's list may be another one."""
        self._is_old.set()

    async def run(self, session: BridgeSession) -> None:
        """List again whenever that is due."""
        while True:
            await self._is_old.wait()
            self._is_old.clear()
            try:
                tools = await session.list_tools()
            except ClientError as error:
                self._warn(f"cannot list the tools: {error}")
                await asyncio.sleep(_PAUSE_S)
                self._is_old.set()
            else:
                self._take(tools)

    def _take(self, tools: Tools) -> None:
        is_news = tools != self._tools if self._tools is not None else self._was_missed
        if tools != self._kept:
            self._keep(tools)
        self._tools, self._was_missed = tools, False
        self._is_known.set()
        if is_news:
            self._on_change()

    def _keep(self, tools: Tools) -> None:
        if self._path is None:
            return
        try:
            self._directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            replace_file(self._path, msgspec.json.encode(tools), durable=False)
            self._let_old_ones_go()
            self._kept = tools
        except OSError as error:
            self._warn(f"cannot keep the list of tools: {error}")

    def _let_old_ones_go(self) -> None:
        """Keep the newest files: tokens that were replaced have left theirs behind."""
        files = sorted(self._directory.glob("*.json"), key=_age, reverse=True)
        for path in files[_KEPT_FILES:]:
            path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    return path.stat().st_mtime


def _digest(door: Door) -> str:
    who = msgspec.json.encode([door.url, door.token])
    return hashlib.sha256(who).hexdigest()
