"""What a check has found: a verdict, what it saw, and what to do about it."""

from typing import Literal

import msgspec

Verdict = Literal["ok", "warning", "problem"]
"""Fine; works, but may not be meant or not last; something does not work."""


class Finding(msgspec.Struct, frozen=True):
    """One line of `exai doctor`."""

    check: str
    verdict: Verdict
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """Return that nothing is wrong."""
    return Finding(check, "ok", text)


def warning(check: str, text: str, advice: str = "") -> Finding:
    """Return what works, but deserves a look."""
    return Finding(check, "warning", text, advice)


def problem(check: str, text: str, advice: str = "") -> Finding:
    """Return what does not work."""
    return Finding(check, "problem", text, advice)
