"""Print the shape of the source: what is long, and how often the checks are silenced.

Knows files, functions and three phrases; knows nothing of what the code means. Long files are
questioned, very long ones fail, and there is no list of exceptions.
"""

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SHOWN_COUNT = 10
QUESTIONED_LINES = 400
REFUSED_LINES = 600
SILENCED = {
    "except Exception": re.compile(r"except\s*\(?[^:]*\b(Base)?Exception\b|except\s*:"),
    "# type: ignore": re.compile(r"#\s*type:\s*ignore"),
    "# noqa": re.compile(r"#\s*(ruff:\s*)?noqa", re.IGNORECASE),
}


class Length(NamedTuple):
    """How many lines something has; sorts by that."""

    lines: int
    name: str


def source_files(roots: list[str]) -> list[Path]:
    """Return the Python files under the roots that say anything."""
    found = (path for root in roots for path in sorted(Path(root).rglob("*.py")))
    return [path for path in found if "node_modules" not in path.parts and path.stat().st_size > 0]


def functions(path: Path) -> Iterator[Length]:
    """Yield each function of a file, named by where it begins."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Length(lines, f"{path}:{node.lineno} {node.name}")


def print_longest(title: str, lengths: list[Length]) -> None:
    """Print the longest few, longest first."""
    print(f"\n{title}")
    for lines, name in sorted(lengths, reverse=True)[:SHOWN_COUNT]:
        print(f"  {lines:5}  {name}")


def print_silenced(paths: list[Path]) -> None:
    """Print where a check was told to be quiet."""
    for phrase, pattern in SILENCED.items():
        places = [
            f"{path}:{number}"
            for path in paths
            for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1)
            if pattern.search(line)
        ]
        print(f"\n{phrase}: {len(places)}", *places, sep="\n  ")


def main() -> int:
    """Print the report; return 1 if a file is too long."""
    paths = source_files(["src", "tests", "bench"])
    lengths = [Length(len(path.read_text("utf-8").splitlines()), str(path)) for path in paths]
    product = [length.lines for length in lengths if length.name.startswith("src/")]
    print(f"src: {len(product)} files, {sum(product)} lines, median {statistics.median(product):g}")
    print_longest("longest files", lengths)
    print_longest("longest functions", [function for path in paths for function in functions(path)])
    print_silenced(paths)

    for lines, name in lengths:
        if lines > QUESTIONED_LINES:
            verdict = "too long" if lines > REFUSED_LINES else "could it be two files?"
            print(f"\n{name}: {lines} lines: {verdict}")
    return int(max(lengths).lines > REFUSED_LINES)


if __name__ == "__main__":
    sys.exit(main())
