"""One MCP server behind us: started, called, and started again when it ends.

    STARTING -> READY -> BACKING_OFF (or GAVE_UP, after too many short lives) -> STARTING …

Knows the server's lives and who waits for the next one; knows nothing of what its tools
are, nor of who may call them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from exai.core.clock import Clock
from exai.core.config import LimitsConfig, UpstreamConfig
from exai.core.errors import UpstreamFailed
from exai.core.events import EventSink, UpstreamDied, UpstreamGaveUp, UpstreamStarted
from exai.core.outcomes import Completed
from exai.core.tool import ToolRun
from exai.processes.environment import child_environment
from exai.processes.process_guard import ProcessGuard
from exai.upstream.call_failures import CALL_FAULTS, can_move_on, upstream_failed
from exai.upstream.carrier import Carrier, CarrierUnusable
from exai.upstream.handshake import Handshake, HandshakeFailed
from exai.upstream.http_client import HttpClient
from exai.upstream.json_rpc import FAULTS
from exai.upstream.restart_policy import RestartPolicy
from exai.upstream.server_life import ServerLife
from exai.upstream.server_process import ServerProcess
from exai.upstream.shown_url import shown_url
from exai.upstream.speech import Speech


class ServerState(StrEnum):
    """Where a server is in its lives."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    GAVE_UP = "gave_up"
    STOPPED = "stopped"


class UpstreamStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """How one server fares. `last_end` says how its last life ended.

    It has either a process (`pid`), or a `url`, of which nothing secret is shown.
    """

    upstream: str
    state: ServerState
    pid: int | None
    url: str | None
    protocol_version: str | None
    tool_count: int
    running_count: int
    start_count: int
    retry_in_s: float | None
    last_end: str | None


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What all servers of one daemon share."""

    guard: ProcessGuard
    http: HttpClient
    handshake: Handshake
    base_environment: Mapping[str, str]
    limits: LimitsConfig
    restart: RestartPolicy
    events: EventSink
    clock: Clock


class UpstreamServer:
    """An MCP server and its lives."""

    def __init__(
        self, name: str, config: UpstreamConfig, around: Surroundings, on_tools: "OnTools"
    ) -> None:
        self.name = name
        self.config = config
        self._around = around
        self._on_tools = on_tools
        self._speech = Speech(name, around.events, around.clock)
        self._state = ServerState.STARTING
        self._life: ServerLife | None = None
        self._discovers = True
        self._is_known_to_work = False
        self._restart = around.restart if config.url is None else around.restart.for_others()
        self._shown_url = None if config.url is None else shown_url(config.url)
        self._start_over = asyncio.Event()
        self._first_start_over = asyncio.Event()
        self._retry_at: float | None = None
        self._tool_count = self._running_count = self._start_count = 0
        self._last_end: str | None = None

    @property
    def server_version(self) -> str:
        """What the running server calls its version; empty where it does not say."""
        return self._life.terms.server_version if self._life else ""

    @property
    def had_first_start(self) -> bool:
        """Whether the first start has succeeded or failed."""
        return self._first_start_over.is_set()

    async def run(self) -> None:
        """Live one life after the other until cancelled."""
        policy, short_lives = self._restart, 0
        try:
            while True:
                end, ready_s = await self._live()
                short_lives = short_lives + 1 if policy.is_short(ready_s) else 1
                await self._back_off(end, ready_s, short_lives)
        finally:
            self._state, self._last_end = ServerState.STOPPED, "was stopped"
            self._tell_start_over()

    async def wait_first_start(self) -> None:
        """Wait until the first start has succeeded or failed."""
        await self._first_start_over.wait()

    async def call(
        self, tool: str, arguments: dict[str, Any], run: ToolRun, *, idempotent: bool = False
    ) -> Completed:
        """Call a tool; waits for the start that is under way, or next.

        When cancelled, tells the server, and returns when its work has ended or can no
        longer be waited for. Raises `UpstreamFailed`, retryable where the server cannot
        have got the request or the tool is `idempotent`; `ToolFailed`; `ResultTooLarge`.
        """
        try:
            return await self._call(tool, arguments, run)
        except CALL_FAULTS as fault:
            if not can_move_on(fault, idempotent=idempotent):
                raise upstream_failed(self.name, fault, idempotent=idempotent) from None
        try:
            return await self._call(tool, arguments, run)
        except CALL_FAULTS as fault:
            raise upstream_failed(self.name, fault, idempotent=idempotent) from None

    async def _call(self, tool: str, arguments: dict[str, Any], run: ToolRun) -> Completed:
        run.may_have_begun = False
        life = await self._require_life()
        run.may_have_begun = True
        self._running_count += 1
        try:
            return await life.call_tool(
                tool, arguments, run, cancel_grace_s=self._around.limits.cancel_grace_s
            )
        finally:
            self._running_count -= 1

    def statistics(self) -> UpstreamStatistics:
        """Return how the server fares now."""
        return UpstreamStatistics(
            upstream=self.name,
            state=self._state,
            pid=self._life.pid if self._life else None,
            url=self._shown_url,
            protocol_version=self._life.terms.protocol_version if self._life else None,
            tool_count=self._tool_count,
            running_count=self._running_count,
            start_count=self._start_count,
            retry_in_s=self._retry_in_s(),
            last_end=self._last_end,
        )

    async def _require_life(self) -> ServerLife:
        if (life := self._running_life()) is not None:
            return life
        if self._state not in (ServerState.GAVE_UP, ServerState.STOPPED):
            await self._start_over.wait()
        if (life := self._running_life()) is not None:
            return life
        raise UpstreamFailed(
            f"{self.name} {self._last_end}",
            retryable=True,
            retry_after_s=self._retry_in_s() if self._state is ServerState.GAVE_UP else None,
        )

    def _running_life(self) -> ServerLife | None:
        return None if self._life is None or self._life.is_over else self._life

    async def _live(self) -> tuple[str, float]:
        """Live one life; return how it ended, and how long the server had been ready."""
        self._state, self._retry_at = ServerState.STARTING, None
        self._start_count += 1
        started_at = self._around.clock.monotonic_s()
        try:
            life = await self._begin_life()
        except OSError as error:
            return f"cannot be started: {_reason_of(error)}", 0.0
        except CarrierUnusable as unusable:
            return f"cannot be used: {unusable}", 0.0
        try:
            end = await life.run(lambda: self._serve(life, started_at))
        finally:
            self._life = None
        if life.ready_at is None:
            return end, 0.0
        return end, self._around.clock.monotonic_s() - life.ready_at

    async def _begin_life(self) -> ServerLife:
        max_result_bytes = self._around.limits.max_result_bytes
        carrier = await self._open_carrier(max_result_bytes)
        return ServerLife(self.name, carrier, self._speech, max_result_bytes)

    async def _open_carrier(self, max_result_bytes: int) -> Carrier:
        config = self.config
        if config.url is not None:
            http = self._around.http
            return await http.open_carrier(config.url, config.headers, max_result_bytes)
        assert config.command is not None
        process = await self._around.guard.spawn(
            config.command,
            config.args,
            env=child_environment(self._around.base_environment, config.env),
            cwd=config.cwd,
        )
        return ServerProcess(process, self._speech, max_result_bytes)

    async def _serve(self, life: ServerLife, started_at: float) -> None:
        async with asyncio.timeout(self.config.start_timeout_s):
            await self._shake_hands(life)
            tools = await life.list_tools()
        self._life = life
        await self._offer(tools)
        self._become_ready(life, started_at)
        while await life.wait_tools_changed():
            with suppress(*FAULTS):  # it keeps the tools it had
                await self._offer(await life.list_tools())

    async def _shake_hands(self, life: ServerLife) -> None:
        try:
            await life.shake_hands(self._around.handshake, discover=self._discovers)
        except HandshakeFailed:
            # Some servers of before 2026 end at a request that they do not know.
            self._discovers = not (self._discovers and life.is_over)
            raise

    async def _offer(self, tools: list[dict[str, Any]]) -> None:
        self._tool_count = len(tools)
        await self._on_tools(self, tools)

    def _become_ready(self, life: ServerLife, started_at: float) -> None:
        life.ready_at = self._around.clock.monotonic_s()
        self._state, self._last_end = ServerState.READY, None
        self._is_known_to_work = True
        self._around.events.emit(
            UpstreamStarted(
                upstream=self.name,
                pid=life.pid,
                url=self._shown_url,
                tool_count=self._tool_count,
                start_s=life.ready_at - started_at,
            )
        )
        self._tell_start_over()

    async def _back_off(self, end: str, ready_s: float, short_lives: int) -> None:
        policy, gave_up = self._restart, self._restart.gives_up(short_lives)
        delay_s = policy.delay_s(short_lives, random.random())
        self._retry_at = self._around.clock.monotonic_s() + delay_s
        self._last_end = end
        self._state = ServerState.GAVE_UP if gave_up else ServerState.BACKING_OFF
        event = UpstreamGaveUp if gave_up else UpstreamDied
        self._around.events.emit(event(upstream=self.name, reason=end, retry_s=delay_s))
        if gave_up or (ready_s == 0.0 and not self._may_come_back):
            self._tell_start_over()
        await asyncio.sleep(delay_s)

    def _tell_start_over(self) -> None:
        """Wake whoever waits for a start; who comes later waits for the next one."""
        self._first_start_over.set()
        self._start_over.set()
        self._start_over.clear()

    @property
    def _may_come_back(self) -> bool:
        """Whether it is worth waiting for: others start it, and it has been there before."""
        return self.config.url is not None and self._is_known_to_work

    def _retry_in_s(self) -> float | None:
        if self._retry_at is None:
            return None
        return max(0.0, self._retry_at - self._around.clock.monotonic_s())


def _reason_of(error: OSError) -> str:
    named = f": {error.filename}" if error.filename else ""
    return f"{error.strerror or str(error) or 'it takes too long'}{named}"


OnTools = Callable[[UpstreamServer, list[dict[str, Any]]], Awaitable[None]]
"""Told of a server's tools, as it describes them, before it is ready and at each change."""
