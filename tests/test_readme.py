"""The README, followed by a reader who does exactly what it says, from the top."""

import asyncio
import re
import subprocess
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path
from typing import NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
ENVIRONMENT = Path(sys.prefix)
BLOCK = re.compile(r"^```(?P<kind>\w+)(?: (?P<file>\S+))?\n(?P<text>.*?)^```", re.M | re.S)
STARTS_A_DAEMON = ("make run", "exai serve")
READY = re.compile(r"ready: ws://127\.0\.0\.1:\d+/?, (?P<http>http://127\.0\.0\.1:\d+)")
PATIENCE_S = 30

ANSWERS = {
    "exai tools": "echo",
    "exai call echo text=hello": "hello",
    'exai call chat prompt="What is the capital of France?"': "Paris",
    "exai call time__get_current_time timezone=Europe/Paris": "Europe/Paris",
    "exai config --config exai.toml": "groq",
}
"""What a reader sees after a command."""


class Block(NamedTuple):
    """A fenced block: commands, or a file to write."""

    kind: str
    file: str | None
    text: str


def blocks() -> list[Block]:
    return [Block(found["kind"], found["file"], found["text"]) for found in BLOCK.finditer(README)]


def wait_for_first_starts(url: str) -> None:
    """Ask `/readyz` as a load balancer does, until it says yes."""
    for _ in range(PATIENCE_S * 10):
        try:
            urlopen(f"{url}/readyz", timeout=PATIENCE_S).close()
        except HTTPError as refusal:
            refusal.close()
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


class Reader:
    """Someone with an empty home, two terminals, and a daemon that runs in the first."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stderr = home / "stderr"
        self.daemon: Process | None = None
        self.environment = {
            "HOME": str(home),
            "PATH": f"{ENVIRONMENT / 'bin'}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "VENV": str(ENVIRONMENT),
            "EXAI_WS_PORT": "0",
            "EXAI_SERVER_HTTP_PORT": "0",
        }

    async def follow(self, block: Block) -> None:
        if block.file:
            (self.home / block.file).write_text(block.text, "utf-8")
        elif block.kind == "sh" and block.text.startswith(STARTS_A_DAEMON):
            await self.stop_daemon()
            await self.start_daemon(block.text)
        elif block.kind == "sh":
            await self.run(block.text)

    async def run(self, commands: str) -> None:
        shell = await self.shell(f"set -e\n{commands}")
        async with asyncio.timeout(PATIENCE_S):
            stdout, _ = await shell.communicate()
        assert shell.returncode == 0, f"{commands}: {self.stderr.read_text()}"
        answers = [answer for command, answer in ANSWERS.items() if command in commands]
        assert answers
        assert [answer for answer in answers if answer not in stdout.decode()] == []

    async def start_daemon(self, command: str) -> None:
        self.daemon = await self.shell(f"exec {command}")
        assert self.daemon.stdout
        async with asyncio.timeout(PATIENCE_S):
            ready = await self.daemon.stdout.readline()
            addresses = READY.search(ready.decode())
            assert addresses, self.stderr.read_text()
            await asyncio.to_thread(wait_for_first_starts, addresses["http"])

    async def stop_daemon(self) -> None:
        if self.daemon is not None:
            self.daemon.terminate()
            async with asyncio.timeout(PATIENCE_S):
                await self.daemon.communicate()  # up to the end of its last child
            self.daemon = None

    async def shell(self, commands: str) -> Process:
        with self.stderr.open("ab") as stderr:
            return await asyncio.create_subprocess_exec(
                "bash",
                "-c",
                commands.replace(".venv", str(ENVIRONMENT)),
                cwd=ROOT if "make" in commands else self.home,
                env=self.environment,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=stderr,
            )


@pytest.mark.slow
async def test_each_command_does_what_the_readme_says(tmp_path: Path) -> None:
    assert (ENVIRONMENT / ".stamp").exists(), "this environment was not made by `make setup`"
    reader = Reader(tmp_path)
    try:
        for block in blocks():
            await reader.follow(block)
    finally:
        await reader.stop_daemon()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)", README))))
def test_each_make_target_exists(target: str) -> None:
    subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!\w+:)([^)#]+)", README))))
def test_each_link_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_the_tree_has_each_room_and_no_other() -> None:
    tree = next(block.text for block in blocks() if block.text.startswith("src/exai/"))
    inside = tree.partition("tests/")[0].removeprefix("src/exai/")
    rooms = {path.parent.name for path in (ROOT / "src" / "exai").glob("*/__init__.py")}

    assert set(re.findall(r"(\w+)/", inside)) == rooms
