"""The token that the first start makes, so that nobody has to choose one.

Knows its file in the state directory, who may read it, and how several first starts
agree on one; does not know when a daemon needs it.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from exai.cli.secret_references import SecretUnreadable, read_secret
from exai.core.tokens import is_strong
from exai.stores.atomic_file import draft, replace_file


def token_path(state_dir: Path) -> Path:
    """Return the file that holds the token."""
    return state_dir / "token"


def find_state_token(state_dir: Path) -> str | None:
    """Return the token, or None before the first start. Raises `SecretUnreadable`."""
    path = token_path(state_dir)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SecretUnreadable(f"cannot read {path}: {error.strerror}") from None
    token = read_secret(path)
    if not is_strong(token):
        raise SecretUnreadable(f"{path} holds no token; remove it, and the next start makes one")
    return token


def make_state_token(state_dir: Path) -> str:
    """Return the token of this state directory, made now if there is none.

    Raises `SecretUnreadable`, or `OSError` for an unusable directory.
    """
    make_state_dir(state_dir)
    return find_state_token(state_dir) or _make(state_dir)


def make_state_dir(state_dir: Path) -> None:
    """Make the directory, closed to others. Raises `SecretUnreadable` if others can write to it."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if os.name == "posix" and state_dir.stat().st_mode & 0o022:
        raise SecretUnreadable(f"others can write to {state_dir}: chmod 700 {state_dir}")


def new_token() -> str:
    """Return a token that nobody had before."""
    return secrets.token_urlsafe(32)


def replace_state_token(state_dir: Path, token: str) -> None:
    """Let this be the token of the state directory. Raises `OSError`."""
    replace_file(token_path(state_dir), _line(token))


def _make(state_dir: Path) -> str:
    """Write the token under a name of our own, then give it its name, if that is still free.

    A link is made at once or not at all, so no reader ever sees half a token, and of
    several starts one wins and the others read its token.
    """
    path = token_path(state_dir)
    with draft(path, _line(new_token())) as written, suppress(FileExistsError):
        os.link(written, path)
    return read_secret(path)


def _line(token: str) -> bytes:
    return f"{token}\n".encode()
