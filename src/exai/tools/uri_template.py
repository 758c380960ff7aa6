"""Whether a URI may have come from a template (RFC 6570), told in time linear in its length.

Knows templates as servers list them; knows nothing of what the variables stand for.
"""

import re
from itertools import pairwise

_EXPRESSION = re.compile(r"\{([^{}]*)\}")
_NARROW = re.compile(r"[^/?#]*")
_WIDE = {
    "+": re.compile(r".*", re.DOTALL),
    "#": re.compile(r"(?:#.*)?", re.DOTALL),
    "/": re.compile(r"(?:/[^?#]*)?"),
    ".": re.compile(r"(?:\.[^/?#]*)?"),
    ";": re.compile(r"(?:;[^/?#]*)?"),
    "?": re.compile(r"(?:\?[^#]*)?"),
    "&": re.compile(r"(?:&[^#]*)?"),
}
"""By an expression's operator, what it may expand to; without one it stays within a segment."""


class UriTemplate:
    """A template as literal texts, and gaps between them."""

    def __init__(self, template: str) -> None:
        parts = _EXPRESSION.split(template)
        self._literals = parts[::2]
        self._gaps = [_WIDE.get(expression[:1], _NARROW) for expression in parts[1::2]]
        wide = (n for n, gap in enumerate(self._gaps) if gap is not _NARROW)
        self._first_wide = next(wide, len(self._gaps))

    def matches(self, uri: str) -> bool:
        """Tell whether the template may expand to this URI.

        Literals are looked for from both ends: before the first wide gap the earliest
        counts, after it the latest. So nothing is ever tried twice.
        """
        if not self._gaps:
            return uri == self._literals[0]
        spans = self._spans(uri)
        return spans is not None and all(
            gap.fullmatch(uri, end, start)
            for gap, ((_, end), (start, _)) in zip(self._gaps, pairwise(spans), strict=True)
        )

    def _spans(self, uri: str) -> list[tuple[int, int]] | None:
        """Return where each literal stands; None where one does not."""
        first, *inner, last = self._literals
        begin, end = len(first), len(uri) - len(last)
        if begin > end or not uri.startswith(first) or not uri.endswith(last):
            return None
        left, right = [(0, begin)], [(end, len(uri))]
        for literal in inner[: self._first_wide]:
            if (at := uri.find(literal, begin, end)) < 0:
                return None
            begin = at + len(literal)
            left.append((at, begin))
        for literal in reversed(inner[self._first_wide :]):
            if (at := uri.rfind(literal, begin, end)) < 0:
                return None
            right.append((at, at + len(literal)))
            end = at
        return left + right[::-1]
