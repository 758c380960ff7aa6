"""`exai bridge`: stdin and stdout speak MCP, and the daemon does the work.

Ends when its input does, when its parent dies, or when nobody reads its output; what runs is
then taken back. Reads its input before it has found the daemon, so that it answers at once.
"""

import asyncio
import os
import signal
from importlib.metadata import version

import msgspec

from exai.cli.bridge_autostart import Autostart, CannotStart
from exai.cli.bridge_server import BridgeServer, Wire
from exai.cli.bridge_session import BridgeSession, TokenRefused
from exai.cli.bridge_stdio import Stdin, Stdout, claim_stdio, warn
from exai.cli.bridge_subscriptions import Subscriptions
from exai.cli.bridge_tools import KnownTools
from exai.cli.config_faults import refuse_config
from exai.cli.config_file import CommandLine, ConfigProblems, LoadedConfig, load_config
from exai.cli.daemon_door import Door, NoDoor, find_door
from exai.cli.exit_codes import ExitCode
from exai.client.answers import Frame
from exai.core.lifecycle import lone_cause
from exai.core.mcp_words import TOOLS_CHANGED
from exai.protocols.mcp_eras import ServerInfo
from exai.protocols.mcp_news import NEWS_OF_OP, News
from exai.upstream.line_splitter import LineSplitter

_MAX_LINE_BYTES = 67_108_864
_LOOKS_EVERY_S = 1.0
_FLUSH_WITHIN_S = 2.0


class BridgeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for."""

    url: str | None
    principal: str | None
    autostart: bool
    patience_s: float


class _Ended(Exception):
    """The bridge has done its work; `status` is how it ends."""

    def __init__(self, status: ExitCode) -> None:
        super().__init__(status.name)
        self.status = status


def run_bridge(order: BridgeOrder, command_line: CommandLine) -> ExitCode:
    """Be an MCP server for whoever started us, until that ends."""
    parent = os.getppid()
    if order.autostart and order.url is not None:
        warn("--autostart starts the daemon of this machine: leave out --url")
        return ExitCode.USAGE
    if not order.patience_s >= 0:
        warn("--patience: expected a number of seconds")
        return ExitCode.USAGE
    try:
        loaded = load_config(command_line, for_client=True)
        find_door(loaded, order.url, order.principal).tls_context()
    except ConfigProblems as wrong:
        return refuse_config(wrong)
    except NoDoor as wrong:
        warn(str(wrong))
        return ExitCode.USAGE
    stdin, stdout = claim_stdio()
    try:
        with lone_cause():
            asyncio.run(_Bridge(order, command_line, loaded).run(stdin, stdout, parent))
    except _Ended as ended:
        return ended.status
    except TokenRefused as refused:
        warn(str(refused))
        return ExitCode.UNAUTHORIZED
    except CannotStart as failure:
        warn(str(failure))
        return ExitCode(failure.status) if failure.status in set(ExitCode) else ExitCode.DEFECT
    return ExitCode.OK


class _Bridge:
    """Assembles the parts, and is how they hear of each other."""

    def __init__(self, order: BridgeOrder, command_line: CommandLine, loaded: LoadedConfig) -> None:
        self._order = order
        self._loaded = loaded
        state_dir = loaded.config.state_dir
        starter = Autostart(state_dir, command_line, warn) if order.autostart else None
        self._session = BridgeSession(self._find_door, starter, self._hear, warn, order.patience_s)
        self._subscriptions = Subscriptions(self._session)
        self._tools = KnownTools(
            state_dir / "bridge", lambda: self._server.tell(News(TOOLS_CHANGED)), warn
        )
        self._find_door()
        self._server: BridgeServer

    async def run(self, stdin: int, stdout: int, parent: int) -> None:
        """Serve. Ends only by raising why."""
        ended: asyncio.Future[ExitCode] = asyncio.get_running_loop().create_future()
        out = Stdout(stdout, lambda: _end(ended, ExitCode.OK))
        for number in (signal.SIGINT, signal.SIGTERM):
            status = ExitCode(128 + number)
            asyncio.get_running_loop().add_signal_handler(number, _end, ended, status)
        async with asyncio.TaskGroup() as tasks:
            self._server = BridgeServer(
                Wire(out.write, out.is_full, out.wait_room),
                self._session,
                self._tools,
                self._subscriptions,
                tasks,
                ServerInfo("exai", version("exai")),
            )
            for life in (
                self._session.run(),
                self._tools.run(self._session),
                self._subscriptions.run(),
                self._server.run(),
                self._read(Stdin(stdin, out.hold_nobody_back), out, ended),
                _watch(parent, out, ended),
            ):
                tasks.create_task(life)
            status = await ended
            await out.flush(_FLUSH_WITHIN_S)
            raise _Ended(status)

    async def _read(self, stdin: Stdin, out: Stdout, ended: asyncio.Future[ExitCode]) -> None:
        """Read line after line, as fast as answers are read."""
        lines = LineSplitter(_MAX_LINE_BYTES)
        async for chunk in stdin.chunks():
            for line in lines.feed(chunk):
                await self._server.handle_line(line)
                await out.wait_room()
        for line in lines.feed(b"\n"):
            await self._server.handle_line(line)
        _end(ended, ExitCode.OK)

    def _find_door(self) -> Door:
        door = find_door(self._loaded, self._order.url, self._order.principal)
        self._tools.remember(door)
        return door

    def _hear(self, frame: Frame) -> None:
        """Take note of what the daemon says unasked."""
        op = frame.get("op")
        if op == "hello_ack":
            self._tools.look_again()
            for news in self._subscriptions.tell_again():
                self._server.tell(news)
        elif op == "tools_changed":
            self._tools.look_again()
        elif method := NEWS_OF_OP.get(str(op)):
            uri = frame.get("uri")
            self._server.tell(News(method, uri if isinstance(uri, str) else None))


async def _watch(parent: int, out: Stdout, ended: asyncio.Future[ExitCode]) -> None:
    """End with the process that started us, or our reader, whoever holds our input open."""
    while not ended.done():
        if os.getppid() != parent or out.is_hung_up():
            _end(ended, ExitCode.OK)
        await asyncio.sleep(_LOOKS_EVERY_S)


def _end(ended: asyncio.Future[ExitCode], status: ExitCode) -> None:
    if not ended.done():
        ended.set_result(status)
