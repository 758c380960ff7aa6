"""Print the shape of the source: what is long, and how often a check is told to be quiet.

Knows files, functions, handlers and comments; knows nothing of what the code means. Long files
are questioned, very long ones fail, and there is no list of exceptions.
"""

import ast
import re
import statistics
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SHOWN_COUNT = 10
QUESTIONED_LINES = 400
REFUSED_LINES = 600

BLIND = "except Exception"
QUIET_COMMENTS = {
    "# type: ignore": re.compile(r"#\s*type:\s*ignore"),
    "# noqa": re.compile(r"#\s*(ruff:\s*)?noqa", re.IGNORECASE),
}


class Length(NamedTuple):
    """How many lines something has; sorts by that."""

    lines: int
    name: str


def source_files(*roots: str) -> list[Path]:
    """Return the Python files under the roots that say anything."""
    found = (path for root in roots for path in sorted(Path(root).rglob("*.py")))
    return [path for path in found if "node_modules" not in path.parts and path.stat().st_size > 0]


def functions(path: Path, nodes: list[ast.AST]) -> Iterator[Length]:
    """Yield each function of a file, named by where it begins."""
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            yield Length(lines, f"{path}:{node.lineno} {node.name}")


def silences(path: Path, nodes: list[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield what quietens a check, and where."""
    for node in nodes:
        if isinstance(node, ast.ExceptHandler) and is_blind(node):
            yield BLIND, f"{path}:{node.lineno}"
    with tokenize.open(path) as source:
        for token in tokenize.generate_tokens(source.readline):
            for phrase, pattern in QUIET_COMMENTS.items():
                if token.type == tokenize.COMMENT and pattern.search(token.string):
                    yield phrase, f"{path}:{token.start[0]}"


def is_blind(handler: ast.ExceptHandler) -> bool:
    """Tell whether a handler takes every defect for an expected fault."""
    names = ast.walk(handler.type) if handler.type else [ast.Name("Exception")]
    return any(isinstance(name, ast.Name) and name.id == "Exception" for name in names)


def print_longest(title: str, lengths: list[Length]) -> None:
    """Print the longest few, longest first."""
    print(f"\n{title}")
    for lines, name in sorted(lengths, reverse=True)[:SHOWN_COUNT]:
        print(f"  {lines:5}  {name}")


def print_silences(found: list[tuple[str, str]]) -> None:
    """Print how often each is used, and where."""
    for phrase in (BLIND, *QUIET_COMMENTS):
        places = [place for silence, place in found if silence == phrase]
        print(f"\n{phrase}: {len(places)}", *places, sep="\n  ")


def main() -> int:
    """Print the report; return 1 if a file is too long."""
    files = {
        path: list(ast.walk(ast.parse(path.read_text("utf-8"))))
        for path in source_files("src", "tests", "bench", "container")
    }
    lengths = [Length(len(path.read_text("utf-8").splitlines()), str(path)) for path in files]
    product = [length.lines for length in lengths if length.name.startswith("src/")]

    print(f"src: {len(product)} files, {sum(product)} lines, median {statistics.median(product):g}")
    print_longest("longest files", lengths)
    print_longest("longest functions", [one for item in files.items() for one in functions(*item)])
    print_silences([one for item in files.items() for one in silences(*item)])

    for lines, name in lengths:
        if lines > QUESTIONED_LINES:
            verdict = "too long" if lines > REFUSED_LINES else "could it be two files?"
            print(f"\n{name}: {lines} lines: {verdict}")
    return int(max(lengths).lines > REFUSED_LINES)


if __name__ == "__main__":
    sys.exit(main())
