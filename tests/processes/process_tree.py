"""Looking at processes that are not ours: who descends from whom, who still runs."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

BOUND_S = 20.0


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody reaps does not."""
    return _stat(pid)[0] not in "ZX"


def is_stopped(pid: int) -> bool:
    """Tell whether a process stands still, as after SIGSTOP."""
    return _stat(pid)[0] == "T"


def descendants_of(pid: int) -> set[int]:
    """Return all processes below `pid` that run."""
    parents = {
        int(p.name): _stat(int(p.name))[1] for p in Path("/proc").iterdir() if p.name.isdigit()
    }
    found, level = set[int](), {pid}
    while level := {child for child, parent in parents.items() if parent in level} - found:
        found |= level
    return {child for child in found if is_alive(child)}


def command_of(pid: int) -> bytes:
    """Return a process's command line; nothing of one that has ended meanwhile."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def environment_of(pid: int) -> bytes:
    """Return the variables that a process was started with."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def open_file_count(pid: int) -> int:
    """Return how many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def has_mapped(pid: int, name: str) -> bool:
    """Tell whether a process has loaded a library of that name."""
    try:
        return name in Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def session_of(pid: int) -> int:
    """Return the session that a process belongs to."""
    return _stat(pid)[2]


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what tells nobody that it has happened."""
    async with asyncio.timeout(BOUND_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def _stat(pid: int) -> tuple[str, int, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "X", 0, 0
    return fields[0], int(fields[1]), int(fields[3])
