"""Writing to people and to pipes, answers to stdout, everything else to stderr; asking people.

Knows that foreign text may hold control characters, which must not reach a terminal.
"""

import json
import sys
from typing import Any, TextIO

from exai.core.foreign_text import escaped


def write(text: str) -> None:
    """Write part of the answer; a pipe gets it as it is, a terminal escaped."""
    _write(escaped(text) if is_terminal(sys.stdout) else text, sys.stdout)


def write_json(value: Any) -> None:
    """Write the whole answer as one line of JSON."""
    _write(json.dumps(value, ensure_ascii=is_terminal(sys.stdout)) + "\n", sys.stdout)


def say(text: str) -> None:
    """Tell people one line, which is no part of the answer."""
    _write(escaped(text) + "\n", sys.stderr)


def complain(text: str) -> None:
    """Tell people what went wrong."""
    say(f"exai: {text}")


def is_confirmed(question: str) -> bool:
    """Ask people at the terminal; nothing but a yes is one."""
    _write(f"{question} [y/N] ", sys.stderr)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether people read this stream as it is; a process may be started without it."""
    return stream is not None and stream.isatty()


def _write(text: str, stream: TextIO | None) -> None:
    if stream is not None:
        stream.write(text)
        stream.flush()
