"""What a token is, and what may be kept of it."""

import hashlib

TOKEN_MIN_LENGTH = 16


def is_strong(token: str) -> bool:
    """Tell whether this may be a token: 16 or more printable ASCII characters, no spaces."""
    is_plain = token.isascii() and token.isprintable() and " " not in token
    return is_plain and len(token) >= TOKEN_MIN_LENGTH


def digest_of(token: str) -> bytes:
    """Return what is kept of a token; a token is long and random, so one hash is enough."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
