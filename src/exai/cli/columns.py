"""Tables for people: cells side by side, each column as wide as its widest cell."""

from collections.abc import Iterable, Iterator, Sequence

_GAP = "  "


def aligned(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield a line for each row; a cell's own line ends become spaces."""
    table = [[one_line(cell) for cell in row] for row in rows]
    widths: dict[int, int] = {}
    for row in table:
        for column, cell in enumerate(row[:-1]):
            widths[column] = max(widths.get(column, 0), len(cell))
    for row in table:
        padded = [cell.ljust(widths[column]) for column, cell in enumerate(row[:-1])]
        yield _GAP.join([*padded, *row[-1:]]).rstrip() + "\n"


def one_line(text: str) -> str:
    """Return the text without line ends, which would draw lines of their own."""
    return " ".join(text.split())
