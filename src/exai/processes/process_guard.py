"""Starting child processes so that none outlives the daemon, whatever ends it.

A child is started by the guard (`guard_main`), a process of its own, over a Unix socket:
the event loop never forks, and the guard sees the daemon's end as the socket's end. Knows
processes, pipes and signals; knows nothing of what a child is for.
"""

import asyncio
import errno
import itertools
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from exai.processes.child_pipes import ChildPipes

_GUARD_SCRIPT = Path(__file__).with_name("guard_main.py")
_STARTS_WITHIN_S = 30.0
_GUARD_ENDS_WITHIN_S = 5.0
_MAX_REQUEST_BYTES = 131_072

_Spawned = tuple[int, asyncio.Future[int]]
"""A child's pid, and its exit status to come."""


class GuardedProcess:
    """A child, leader of a session and a group of its own, and its three pipes.

    Whoever started it reads `stdout` and `stderr` to their end, and calls `stop`. At its
    end everything it started is killed.
    """

    def __init__(
        self, guard: "ProcessGuard", pid: int, exited: asyncio.Future[int], pipes: ChildPipes
    ) -> None:
        self.pid = pid
        self.stdin = pipes.stdin
        self.stdout = pipes.stdout
        self.stderr = pipes.stderr
        self._guard = guard
        self._exited = exited
        self._pipes = pipes

    @property
    def returncode(self) -> int | None:
        """The exit status, `-N` for signal N; None while it runs."""
        return self._exited.result() if self._exited.done() else None

    async def wait(self) -> int:
        """Wait for the end of the process (not of its pipes) and return its exit status."""
        return await asyncio.shield(self._exited)

    def send_signal(self, number: int) -> None:
        """Send a signal to the process and its group; does nothing once it has ended."""
        if not self._exited.done():
            self._guard.send_signal(self.pid, number)

    async def stop(self, grace_s: float = 2.0) -> None:
        """Close stdin, then SIGTERM, then SIGKILL, each followed by a wait of `grace_s`.

        Closes the pipes. When cancelled it kills at once.
        """
        try:
            self.stdin.close()
            if not await self._ends_within(grace_s):
                self.send_signal(signal.SIGTERM)
                await self._ends_within(grace_s)
        finally:
            self.send_signal(signal.SIGKILL)
            self._pipes.close()
        await self._ends_within(grace_s)

    def close_pipes(self) -> None:
        """Close all three pipes at once; whoever reads them is at their end."""
        self._pipes.close()

    async def _ends_within(self, wait_s: float) -> bool:
        ended, _ = await asyncio.wait([self._exited], timeout=wait_s)
        return bool(ended)


class ProcessGuard:
    """The daemon's side of the guard. The guard itself starts with the first child."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._socket: socket.socket | None = None
        self._unread = b""
        self._spawn_ids = itertools.count(1)
        self._spawning: dict[int, asyncio.Future[_Spawned]] = {}
        self._exits: dict[int, asyncio.Future[int]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def spawn(
        self,
        command: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> GuardedProcess:
        """Start `command`, found on the PATH of `env`, with pipes for all three streams.

        Raises `OSError`: there is no such program or directory, it may not be run, it does
        not begin to run in time, or the guard itself cannot.
        """
        request = {"args": [command, *args], "env": dict(env), "cwd": str(cwd) if cwd else None}
        with ExitStack() as child_ends:
            pipes, descriptors = await ChildPipes.open(child_ends)
            try:
                # One at a time, as the guard does them, so that the socket always has room.
                async with asyncio.timeout(_STARTS_WITHIN_S), self._turn:
                    await self._require_guard()
                    pid, exited = await self._request(request, descriptors)
            except BaseException:
                pipes.close()
                raise
        return GuardedProcess(self, pid, exited, pipes)

    def send_signal(self, pid: int, number: int) -> None:
        """Send a signal to the group of a child that has not ended."""
        if pid in self._exits:
            self._send(_encode({"signal": int(number), "pid": pid}))

    async def close(self) -> None:
        """Let the guard kill whatever still runs, and end."""
        self._lose_guard()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_GUARD_ENDS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        self._process = None

    async def _require_guard(self) -> None:
        if self._socket is not None:
            return
        ours, its = socket.socketpair()
        with its:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", str(_GUARD_SCRIPT)),
                    stdin=its.fileno(),
                    stdout=DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        ours.setblocking(False)
        self._socket, self._unread = ours, b""
        asyncio.get_running_loop().add_reader(ours, self._hear)

    async def _request(self, child: dict[str, Any], descriptors: Sequence[int]) -> _Spawned:
        spawn_id = next(self._spawn_ids)
        line = _encode({"spawn": spawn_id, **child})
        if len(line) > _MAX_REQUEST_BYTES:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG), child["args"][0])
        spawned: asyncio.Future[_Spawned] = asyncio.get_running_loop().create_future()
        self._spawning[spawn_id] = spawned
        self._send(line, descriptors)
        try:
            return await spawned
        except asyncio.CancelledError:
            if not spawned.cancelled() and not spawned.exception():  # both in the same moment
                self.send_signal(spawned.result()[0], signal.SIGKILL)
            raise

    def _send(self, line: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            sent = socket.send_fds(self._require_socket(), [line], descriptors)
        except OSError:
            sent = 0
        if sent < len(line):
            # It has stopped reading. Without the socket it kills the children and ends.
            self._lose_guard()

    def _require_socket(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionError("the process guard has ended")
        return self._socket

    def _hear(self) -> None:
        try:
            received = self._require_socket().recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self._lose_guard()
            return
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        if "exited" in message:
            self._exits.pop(message["exited"]).set_result(message["status"])
        elif "spawned" in message:
            self._take_spawned(self._spawning.pop(message["spawned"]), message["pid"])
        else:
            spawned = self._spawning.pop(message["refused"])
            if not spawned.done():
                spawned.set_exception(OSError(message["errno"], message["reason"], message["path"]))

    def _take_spawned(self, spawned: asyncio.Future[_Spawned], pid: int) -> None:
        exited = asyncio.get_running_loop().create_future()
        self._exits[pid] = exited
        if spawned.done():  # nobody waits for it any more
            self.send_signal(pid, signal.SIGKILL)
        else:
            spawned.set_result((pid, exited))

    def _lose_guard(self) -> None:
        """Close the socket and answer everybody who waits: the guard's end ends its children."""
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        for spawned in self._spawning.values():
            if not spawned.done():
                spawned.set_exception(ConnectionError("the process guard has ended"))
        for exited in self._exits.values():
            exited.set_result(-signal.SIGKILL)
        self._spawning.clear()
        self._exits.clear()


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
