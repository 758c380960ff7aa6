"""The address that a daemon that is ready leaves in its state directory, for who calls it.

Nobody has to repeat the ports that it was started with, or the certificate that it shows.
"""

import os
from pathlib import Path

import msgspec

from exai.stores.atomic_file import replace_file


class Address(msgspec.Struct, frozen=True):
    """What a ready daemon says of itself."""

    pid: int
    websocket_url: str
    http_url: str
    certificate: Path | None = None


def find_address(state_dir: Path) -> Address | None:
    """Return the address that the last daemon of this state directory left."""
    try:
        return msgspec.json.decode(
            _address_path(state_dir).read_bytes(), type=Address, dec_hook=_path_of
        )
    except (OSError, msgspec.MsgspecError):
        return None


def leave_address(
    state_dir: Path, websocket_url: str, http_url: str, certificate: Path | None = None
) -> None:
    """Say where this process listens, until `remove_address`. Raises `OSError`."""
    address = Address(os.getpid(), reachable(websocket_url), reachable(http_url), certificate)
    replace_file(_address_path(state_dir), msgspec.json.encode(address, enc_hook=str))


def remove_address(state_dir: Path) -> None:
    """Take our address away; a daemon that started after us keeps its own."""
    address = find_address(state_dir)
    if address and address.pid == os.getpid():
        _address_path(state_dir).unlink(missing_ok=True)


def reachable(url: str) -> str:
    """Return where a daemon is reached on this machine, also one that listens everywhere."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _address_path(state_dir: Path) -> Path:
    return state_dir / "address.json"


def _path_of(kind: type, text: str) -> Path:
    return Path(text)
