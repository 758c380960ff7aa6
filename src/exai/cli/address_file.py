"""The address that a daemon that is ready leaves in its state directory, for who calls it.

Nobody has to repeat the ports that it was started with, or the certificate that it shows.
"""

import os
import secrets
from importlib.metadata import version
from pathlib import Path

import msgspec

from exai.stores.atomic_file import replace_file


class Address(msgspec.Struct, frozen=True):
    """What a ready daemon says of itself.

    `instance` is another one after each start, also of the same process; a daemon that says
    none is of a version that cannot be replaced. `refusal` says why an upgrade was refused the
    last time, of so many.
    """

    pid: int
    websocket_url: str
    http_url: str
    certificate: Path | None = None
    version: str = ""
    instance: str = ""
    refusal_count: int = 0
    refusal: str = ""


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
    address = Address(
        os.getpid(),
        reachable(websocket_url),
        reachable(http_url),
        certificate,
        version=version("exai"),
        instance=secrets.token_hex(8),
    )
    _write(state_dir, address)


def leave_refusal(state_dir: Path, reason: str) -> None:
    """Say why this process was not replaced. Raises `OSError`."""
    address = find_address(state_dir)
    if address and address.pid == os.getpid():
        count = address.refusal_count + 1
        _write(state_dir, msgspec.structs.replace(address, refusal_count=count, refusal=reason))


def remove_address(state_dir: Path) -> None:
    """Take our address away; a daemon that started after us keeps its own."""
    address = find_address(state_dir)
    if address and address.pid == os.getpid():
        _address_path(state_dir).unlink(missing_ok=True)


def reachable(url: str) -> str:
    """Return where a daemon is reached on this machine, also one that listens everywhere."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _write(state_dir: Path, address: Address) -> None:
    replace_file(_address_path(state_dir), msgspec.json.encode(address, enc_hook=str))


def _address_path(state_dir: Path) -> Path:
    return state_dir / "address.json"


def _path_of(kind: type, text: str) -> Path:
    return Path(text)
