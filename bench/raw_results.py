"""Raw data: one file a scenario, whose first line says what made it, and each other one run."""

from pathlib import Path

import msgspec

from bench.runs import Header, Run

_encode = msgspec.json.Encoder().encode


class RawFile:
    """The raw data of one scenario, written as it comes."""

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_encode(header) + b"\n")
        self._path = path

    def add(self, run: Run) -> None:
        """Keep one run."""
        with self._path.open("ab") as file:
            file.write(_encode(run) + b"\n")


def raw_path(directory: Path, scenario: str) -> Path:
    """Return the file of a scenario."""
    return directory / "results" / f"{scenario}.jsonl"


def read_raw(path: Path) -> tuple[Header, list[Run]]:
    """Return the header and the runs of a file."""
    first, *others = path.read_bytes().splitlines()
    runs = [msgspec.json.decode(line, type=Run) for line in others]
    return msgspec.json.decode(first, type=Header), runs
