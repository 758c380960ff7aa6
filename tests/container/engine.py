"""Containers as tests run them: by a podman that keeps what it has in this checkout."""

import fcntl
import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

IMAGE = "localhost/exai-daemon"
TOKEN = "token-of-the-container-0123456789"
WITH_TOKEN = ("--env", f"EXAI_WS_TOKEN={TOKEN}")
BUILD_S = 240.0
PATIENCE_S = 50.0
Command = Sequence[str | Path]

ROOT = Path(__file__).parent.parent.parent
PODMAN = ROOT / "tests" / "container" / "podman"
SMOKE_TEST = ("python", "/app/test_suite.py")
BUILD_ENVIRON = {"EXAI_BASE": "localhost/debian-python", "PIP_CERT": "/ca.crt"}

_CA_FILE = os.environ.get("PIP_CERT", "/etc/ssl/certs/ca-certificates.crt")
BUILD_ARGUMENTS = f"--network host --volume {_CA_FILE}:/ca.crt:ro"
_CONFINED = (
    *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--tmpfs", "/tmp"),
)


class Ended(NamedTuple):
    """How a command ended, and what it wrote."""

    status: int
    out: str
    err: str

    def written(self) -> str:
        """Return what it wrote. Fails where the command did."""
        assert self.status == 0, f"{self.status}: {self.out[-2000:]}{self.err[-2000:]}"
        return self.out


def podman(*arguments: str | Path) -> Ended:
    """Run podman to its end."""
    return run([PODMAN, *arguments])


def compose(*arguments: str, environ: Mapping[str, str], timeout_s: float = PATIENCE_S) -> Ended:
    """Have compose.yaml obeyed, with these variables beside the ordinary ones."""
    program: Command = (Path(sys.prefix, "bin", "podman-compose"), "--podman-path", PODMAN)
    ordinary = {name: os.environ[name] for name in ("HOME", "PATH")}
    command = (*program, "--podman-build-args", BUILD_ARGUMENTS, *arguments)
    return run(command, ordinary | dict(environ), timeout_s)


@cache
def build_image() -> None:
    """Build the image as compose.yaml says, on a base that is made on this machine."""
    run([PODMAN.with_name("prepare")], timeout_s=BUILD_S).written()
    environ = BUILD_ENVIRON | {"EXAI_WS_TOKEN": TOKEN}
    with alone("build"):
        compose("build", environ=environ, timeout_s=BUILD_S).written()


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Let one test process at a time do this, while the context is open."""
    with (ROOT / ".venv-container" / f"{what}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run_image(*options: str, network: str = "none", command: Command = ()) -> Ended:
    """Run the image, or another command in it, confined as far as it goes, to its end."""
    entry = ("--entrypoint", command[0]) if command else ()
    arguments = ("--rm", *_CONFINED, "--network", network, *entry, *options, IMAGE, *command[1:])
    return podman("run", *arguments)


@contextmanager
def running_image(*options: str) -> Iterator[str]:
    """Run the image with a token, confined as far as it goes; yield the container's name."""
    name = f"exai-{uuid.uuid4().hex[:8]}"
    alone = ("--detach", "--name", name, *_CONFINED, "--network", "none")
    podman("run", *alone, *WITH_TOKEN, *options, IMAGE).written()
    try:
        yield name
    finally:
        podman("rm", "--force", "--time", "0", "--volumes", name)


def free_ports() -> dict[str, str]:
    """Return variables with ports of this machine that nobody has."""
    names = ("EXAI_WS_PORT", "EXAI_SERVER_HTTP_PORT")
    with ExitStack() as stack:
        found = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
        return {name: str(one.getsockname()[1]) for name, one in zip(names, found, strict=True)}


def run(
    command: Command,
    environ: Mapping[str, str] = os.environ,
    timeout_s: float = PATIENCE_S,
    cwd: Path = ROOT,
) -> Ended:
    """Run a command to its end."""
    ended = subprocess.run(
        command,
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)
