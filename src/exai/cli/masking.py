"""What is shown of settings that may hold a secret, as they stand in their files.

Knows what secrets are called, and hides them; `${VAR}` beside them stays.
"""

import re

MASK = "***"
SECRET_NAME = re.compile(r"key|token|secret|passw|auth|cookie|credential|signature", re.IGNORECASE)
"""What a header, or a part of an address, is called that holds a secret."""

_PASSWORD = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def without_password(text: str) -> str:
    """Return a text without the passwords of addresses in it."""
    return _PASSWORD.sub(MASK, text)


def masked_address(url: str) -> str:
    """Return an address without its password and what its query names like a secret."""
    address, mark, query = without_password(url).partition("?")
    pairs = (pair.partition("=") for pair in query.split("&"))
    shown = [f"{n}={MASK}" if v and SECRET_NAME.search(n) else f"{n}{eq}{v}" for n, eq, v in pairs]
    return address + mark + "&".join(shown)
