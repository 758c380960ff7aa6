"""Writing to people and to pipes: answers to stdout, everything else to stderr.

Knows that foreign text may hold control characters, which must not reach a terminal.
"""

import json
import re
import sys
from typing import Any, TextIO

_UNSAFE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, but tab and line end
    r"\u202a-\u202e\u2066-\u2069]"  # these turn the direction of what follows
)


def escape(text: str) -> str:
    """Return the text with every character that could steer a terminal made visible."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def write(text: str) -> None:
    """Write part of the answer; a pipe gets it as it is, a terminal escaped."""
    _write(escape(text) if is_terminal(sys.stdout) else text, sys.stdout)


def write_json(value: Any) -> None:
    """Write the whole answer as one line of JSON."""
    _write(json.dumps(value, ensure_ascii=is_terminal(sys.stdout)) + "\n", sys.stdout)


def say(text: str) -> None:
    """Tell people one line, which is no part of the answer."""
    _write(escape(text) + "\n", sys.stderr)


def complain(text: str) -> None:
    """Tell people what went wrong."""
    say(f"exai: {text}")


def is_terminal(stream: TextIO | None) -> bool:
    """Tell whether people read this stream as it is; a process may be started without it."""
    return stream is not None and stream.isatty()


def _write(text: str, stream: TextIO | None) -> None:
    if stream is not None:
        stream.write(text)
        stream.flush()
