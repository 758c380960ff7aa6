"""Secrets that stand elsewhere: `env:NAME` and `file:PATH`.

Knows how a reference is written and followed, and which files others can read; does not
know what a secret is good for, and never puts one into a message.
"""

import os
from collections.abc import Mapping
from pathlib import Path

_PRIVATE = 0o077


class SecretUnreadable(Exception):
    """A reference leads nowhere, or to a place that others can read."""


def is_reference(text: str) -> bool:
    """Tell whether the secret itself stands elsewhere."""
    return text.startswith(("env:", "file:"))


def reveal(text: str, environ: Mapping[str, str], directory: Path) -> str:
    """Return the secret that `text` is or refers to; relative paths start at `directory`.

    Raises `SecretUnreadable`.
    """
    if text.startswith("env:"):
        secret = _from_variable(text.removeprefix("env:"), environ)
    elif text.startswith("file:"):
        secret = read_secret(directory / os.path.expanduser(text.removeprefix("file:")))
    else:
        secret = text
    if secret is not text and is_reference(secret):
        raise SecretUnreadable("it leads to another reference, not to a secret")
    if not secret.isprintable():
        raise SecretUnreadable("the secret holds control characters")
    return secret


def _from_variable(name: str, environ: Mapping[str, str]) -> str:
    secret = environ.get(name)
    if not secret:
        raise SecretUnreadable(f"the variable {name!r} is {'empty' if secret == '' else 'not set'}")
    return secret


def read_secret(path: Path) -> str:
    """Return a private file's text without its last line end. Raises `SecretUnreadable`."""
    try:
        with path.open("rb") as file:
            if is_open_to_others(file.fileno()):
                raise SecretUnreadable(f"others can read {path}: chmod 600 {path}")
            secret = file.read(65_536).decode()
    except OSError as error:
        raise SecretUnreadable(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretUnreadable(f"{path} is not UTF-8 text") from None
    secret = secret.removesuffix("\n").removesuffix("\r")
    if not secret:
        raise SecretUnreadable(f"{path} is empty")
    return secret


def is_open_to_others(descriptor: int) -> bool:
    """Tell whether somebody but its owner may read or write this open file."""
    return os.name == "posix" and bool(os.fstat(descriptor).st_mode & _PRIVATE)
