"""The guard: a process of its own that starts the daemon's children and outlives none of them.

Run as a script by `process_guard`, with a Unix socket as stdin; imports nothing but the
standard library. It is the parent of every child, so no child is ever unregistered, and
the reaper of every orphan a child leaves behind, so none escapes by leaving its group.
When the socket closes, for whatever reason, it kills them all and ends.

    daemon -> guard  {"spawn": 7, "args": […], "env": {…}, "cwd": …} + stdin, stdout, stderr
                     {"signal": 15, "pid": 123}          to the child's whole group
    guard -> daemon  {"spawned": 7, "pid": 123}  or  {"refused": 7, "errno": 2, "path": …}
                     {"exited": 123, "status": -9}

It knows processes only: nothing of MCP, of models, or of why a child is started.
"""

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

MARK = "PROCESS_GUARD_MARK"
"""Variable by which an orphan's child is known: it is inherited where parenthood is not."""

_SET_PDEATHSIG = 1
_SET_CHILD_SUBREAPER = 36
_RETRY_S = 0.01


class Guard:
    """The children, and the socket to the daemon."""

    def __init__(self, daemon: socket.socket) -> None:
        self._daemon = daemon
        self._children: dict[int, str] = {}
        self._spawn_count = 0
        self._unread = b""
        self._passed: deque[int] = deque()
        self._prctl = _prctl()

    def run(self, died: int) -> None:
        """Serve until the daemon is gone, then kill whatever is left. `died`: SIGCHLD's pipe."""
        self._prctl(_SET_CHILD_SUBREAPER, 1)
        sources: list[socket.socket | int] = [self._daemon, died]
        while True:
            readable, _, _ = select.select(sources, [], [])
            if died in readable:
                os.read(died, 4096)
                self._reap()
            if self._daemon in readable and not self._serve():
                break
        self._kill_all()

    def _serve(self) -> bool:
        try:
            received, passed, _, _ = socket.recv_fds(self._daemon, 65536, 16)
        except ConnectionError:
            return False
        self._passed.extend(passed)
        *lines, self._unread = (self._unread + received).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "spawn" in request:
                self._spawn(request)
            elif request["pid"] in self._children:
                _ignoring_the_dead(os.killpg, request["pid"], request["signal"])
        return bool(received)

    def _spawn(self, request: dict[str, Any]) -> None:
        stdio = [self._passed.popleft() for _ in range(3)]
        self._spawn_count += 1
        mark = f"{os.getpid()}.{self._spawn_count}"
        try:
            process = subprocess.Popen(
                request["args"],
                stdin=stdio[0],
                stdout=stdio[1],
                stderr=stdio[2],
                cwd=request["cwd"],
                env=request["env"] | {MARK: mark},
                start_new_session=True,
                preexec_fn=lambda: self._prctl(_SET_PDEATHSIG, signal.SIGKILL),
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            code, path = getattr(error, "errno", None), getattr(error, "filename", None)
            reason = getattr(error, "strerror", None) or str(error)
            self._tell({"refused": request["spawn"], "errno": code, "reason": reason, "path": path})
        else:
            process.returncode = 0  # reaped here, by its pid: `Popen` must not wait for it
            self._children[process.pid] = mark
            self._tell({"spawned": request["spawn"], "pid": process.pid})
        finally:
            for descriptor in stdio:
                os.close(descriptor)

    def _reap(self) -> None:
        """Bury the dead; a child's end is the end of all that it started."""
        while (pid := _next_dead()) is not None:
            if pid in self._children:
                # Still a zombie, so the group's number cannot belong to anybody else.
                _ignoring_the_dead(os.killpg, pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            if self._children.pop(pid, None) is not None:
                self._tell({"exited": pid, "status": os.waitstatus_to_exitcode(status)})
        for pid in _own_children():
            if pid not in self._children and self._was_left_behind(_mark_of(pid)):
                _ignoring_the_dead(os.kill, pid, signal.SIGKILL)

    def _was_left_behind(self, mark: str | None) -> bool:
        return mark is not None and mark not in self._children.values()

    def _kill_all(self) -> None:
        """Kill until no child is left: each death may hand over orphans to kill next."""
        while True:
            for pid in self._children:
                _ignoring_the_dead(os.killpg, pid, signal.SIGKILL)
            for pid in _own_children():
                _ignoring_the_dead(os.kill, pid, signal.SIGKILL)
            try:
                while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                    self._children.pop(pid, None)
            except ChildProcessError:
                return
            select.select([], [], [], _RETRY_S)

    def _tell(self, message: dict[str, Any]) -> None:
        with suppress(ConnectionError):  # the daemon is gone: the next read says so
            self._daemon.sendall(json.dumps(message).encode() + b"\n")


def _next_dead() -> int | None:
    try:
        dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return dead.si_pid if dead is not None else None


def _own_children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as children:
            return [int(pid) for pid in children.read().split()]
    except OSError:
        return []  # not Linux: groups are all there is to kill


def _mark_of(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as environment:
            variables = environment.read().split(b"\0")
    except OSError:
        return None
    prefix = MARK.encode() + b"="
    return next((v[len(prefix) :].decode() for v in variables if v.startswith(prefix)), None)


def _ignoring_the_dead(kill: Callable[[int, int], None], pid: int, number: int) -> None:
    # Gone already, or another user's by now (a setuid program).
    with suppress(ProcessLookupError, PermissionError):
        kill(pid, number)


def _prctl() -> Callable[[int, int], Any]:
    if sys.platform != "linux":
        return lambda option, value: None
    return ctypes.CDLL(None).prctl


def main() -> None:
    """Serve the daemon at the other end of stdin."""
    # Handled rather than ignored: a child starts with the default action of a handled signal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    died, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    Guard(socket.socket(fileno=sys.stdin.fileno())).run(died)


if __name__ == "__main__":
    main()
