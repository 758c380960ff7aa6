"""What HTTP can carry, by its syntax alone: addresses, and names and values of headers.

Knows texts; knows nothing of what is sent there, nor of headers that mean something.
"""

import re
from urllib.parse import urlsplit

_HOST = re.compile(r"[\w.-]+|[\w.]*:[\w.:]*(?:%[\w.-]+)?")
"""A name, or an IPv6 address with or without its zone."""
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_HEADER_VALUE = re.compile(r"[!-~\x80-\xff](?:[\t -~\x80-\xff]*[!-~\x80-\xff])?|")


def is_http_url(text: str) -> bool:
    """Tell whether this is the address of something that is reached by HTTP."""
    try:
        url = urlsplit(text)
        is_whole = url.scheme in {"http", "https"} and url.port != 0
    except ValueError:
        return False
    is_clean = text.isprintable() and " " not in text
    return is_whole and is_clean and _HOST.fullmatch(url.hostname or "") is not None


def is_header_name(text: str) -> bool:
    """Tell whether a header may be called so."""
    return _HEADER_NAME.fullmatch(text) is not None


def is_header_value(text: str) -> bool:
    """Tell whether a header may hold this: no control characters, no space at its ends."""
    return _HEADER_VALUE.fullmatch(text) is not None
