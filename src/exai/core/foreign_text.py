"""Text that others wrote, made safe to show: nobody draws on a terminal that is not theirs."""

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls of terminals, but tab and line end
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # odd line ends, changes of direction
    "\ud800-\udfff]"  # what no encoding can carry
)


def escaped(text: str) -> str:
    """Return the text with every character that could steer a terminal made visible."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
