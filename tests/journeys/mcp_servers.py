"""Servers that have more than tools, a daemon in front of them, and clients that use it."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from exai.core.config import PrincipalConfig, Secret, UpstreamConfig
from exai.core.events import UpstreamStarted
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from tests.journeys.wire import Frame, Wire, open_wire

SERVERS = Path(__file__).parent / "servers"
OTHER = "token-of-somebody-else-0123456789"


def library(scheme: str, **settings: Any) -> UpstreamConfig:
    return UpstreamConfig(
        command=sys.executable, args=(str(SERVERS / "library.py"), scheme), **settings
    )


def archive(*options: str, **settings: Any) -> UpstreamConfig:
    return UpstreamConfig(
        command=sys.executable, args=("-I", "-S", str(SERVERS / "archive.py"), *options), **settings
    )


def having(file: Path, **lists: Any) -> tuple[str, str]:
    """Return the options of an archive that lists this, by way of a file."""
    methods = {
        "resources": "resources/list",
        "templates": "resources/templates/list",
        "prompts": "prompts/list",
    }
    file.write_text(json.dumps({methods[key]: listed for key, listed in lists.items()}))
    return "--has", str(file)


@asynccontextmanager
async def serving(
    tmp_path: Path, upstreams: dict[str, UpstreamConfig], *, other_sees: str = "*", **sections: Any
) -> AsyncIterator[RunningDaemon]:
    """Run a daemon whose servers are ready, for two principals."""
    principals = {
        "default": PrincipalConfig(token=Secret(TOKEN)),
        "other": PrincipalConfig(token=Secret(OTHER), tools=tuple(other_sees.split())),
    }
    config = daemon_config(tmp_path, upstreams=upstreams, principals=principals, **sections)
    async with running_daemon(config) as daemon:
        await daemon.events.wait_for(UpstreamStarted, len(upstreams))
        yield daemon


class Client:
    """A wire whose calls count their ids."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._count = 0

    async def ask(self, method: str, /, **arguments: Any) -> Frame:
        self._count += 1
        return await self.wire.call(method, f"r{self._count}", arguments=arguments)

    async def result(self, method: str, /, **arguments: Any) -> Any:
        answer = await self.ask(method, **arguments)
        assert answer["ok"], answer
        return answer.get("structured") or answer["text"]

    async def names(self, method: str) -> list[str]:
        """Return what a listing lists, by what identifies it."""
        [listed] = (await self.result(method)).values()
        return [each.get("uri") or each.get("uriTemplate") or each["name"] for each in listed]

    async def refusal(self, method: str, /, **arguments: Any) -> tuple[Any, Any]:
        """Return the code and the data of the protocol's own error."""
        details = (await self.ask(method, **arguments))["error"]["details"]
        return details.get("jsonrpc_code"), details.get("jsonrpc_data")


@asynccontextmanager
async def client_of(daemon: RunningDaemon, token: str = TOKEN) -> AsyncIterator[Client]:
    async with open_wire(daemon.url, token=token) as wire:
        yield Client(wire)
