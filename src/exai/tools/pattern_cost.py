"""How large the automaton of a regular expression is, roughly, without building it.

Matching in linear time still takes states times characters, and building takes time too.
"""

import re

_TOKEN = re.compile(
    r"(?P<unicode>\\[pP](?:\{[^}]*\}|.))|(?P<wide>\\[wWdDsS])|\\."
    r"|(?P<set>\[\^?\]?(?:\\.|[^\]\\])*\])"
    r"|\{(?P<least>\d+)(?:,(?P<most>\d*))?\}"
    r"|(?P<open>\()|(?P<close>\))|.",
    re.DOTALL,
)
_CLASS = re.compile(r"(?P<unicode>\\[pP])|(?P<wide>\\[wWdDsS])")
_UNICODE_CLASS_STATES = 600
_WIDE_CLASS_STATES = 30
_MAX_STATES = 1_000_000


def match_states(pattern: str) -> int:
    """Estimate how many states may be active at once while matching."""
    return _states(pattern, 1, 1)


def build_states(pattern: str) -> int:
    """Estimate how many states are built: classes of many characters have many."""
    return _states(pattern, _WIDE_CLASS_STATES, _UNICODE_CLASS_STATES)


def _states(pattern: str, wide: int, unicode: int) -> int:
    totals, last = [0], 0
    for token in _TOKEN.finditer(pattern):
        if token["least"]:
            times = max(1, min(1000, max(int(token["least"]), int(token["most"] or 0))))
            totals[-1] += last * (times - 1)
            last *= times
        elif token["open"]:
            totals.append(0)
        elif token["close"] and len(totals) > 1:
            last = totals.pop()
            totals[-1] += last
        else:
            last = _width(token, wide, unicode)
            totals[-1] += last
        if totals[-1] > _MAX_STATES:
            return _MAX_STATES
    return sum(totals)


def _width(token: re.Match[str], wide: int, unicode: int) -> int:
    if token["unicode"]:
        return unicode
    if token["wide"]:
        return wide
    inner = _CLASS.finditer(token["set"] or "")
    return 1 + sum(unicode if found["unicode"] else wide for found in inner)
