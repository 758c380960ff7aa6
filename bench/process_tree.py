"""A process and those below it, seen from outside: processor time and memory, from `/proc`."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessTree:
    """A process that somebody else runs."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_s(self) -> float:
        """Return the processor time that the process itself has used."""
        return _cpu_s(self.pid)

    def children_cpu_s(self) -> float:
        """Return the processor time that all processes below it have used."""
        return sum(_cpu_s(pid) for pid in self._descendants())

    def resident_bytes(self, name: str = "VmRSS") -> int:
        """Return its resident memory; `VmHWM` is the most since `forget_peak`."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

    def forget_peak(self) -> None:
        """Begin to look for the peak of the resident memory anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def _descendants(self) -> Iterator[int]:
        children_of: dict[int, list[int]] = {}
        for directory in Path("/proc").iterdir():
            if directory.name.isdigit() and (fields := _stat(int(directory.name))):
                children_of.setdefault(int(fields[1]), []).append(int(directory.name))
        below = [self.pid]
        while below:
            children = children_of.get(below.pop(), [])
            below += children
            yield from children


def _cpu_s(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S if fields else 0.0


def _stat(pid: int) -> list[str]:
    """Return the fields after the program's name; none where the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
