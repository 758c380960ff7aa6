"""Who listens on a port of this machine, as far as the system tells.

Reads `/proc` where there is one, which disturbs nobody; elsewhere it knocks.
"""

import ipaddress
import os
import pwd
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LISTENS = "0A"
_KNOCK_S = 1.0

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Listener(NamedTuple):
    """Whoever it is; None for what the system does not tell."""

    pid: int | None = None
    program: str | None = None
    user: str | None = None

    def __str__(self) -> str:
        """Name it for people: never its arguments, which may hold secrets."""
        if self.pid is not None:
            return f"{self.program} (pid {self.pid})"
        return f"a process of {self.user}" if self.user else "another process"


def find_listener(host: str, port: int) -> Listener | None:
    """Return who keeps others from listening there. Raises `OSError` for an unknown host."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    literal = str(address[0])
    if not Path("/proc/net/tcp").exists():
        return Listener() if _is_answered(family, literal, port) else None
    wanted = ipaddress.ip_address(literal.partition("%")[0])
    for entry in _entries():
        if entry.port == port and _overlap(entry.address, wanted):
            is_of_its_kind = entry.address.version == wanted.version
            # One for all of IPv6 may or may not be there for IPv4, too.
            if is_of_its_kind or _is_answered(family, literal, port):
                return _listener(entry)
    return None


class _Entry(NamedTuple):
    address: Address
    port: int
    uid: int
    inode: str


def _entries() -> Iterator[_Entry]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS:
                address, _, port = fields[1].partition(":")
                yield _Entry(_address(address), int(port, 16), int(fields[7]), fields[9])


def _address(written: str) -> Address:
    """Read an address as the kernel writes it: words in the order of this machine's bytes."""
    raw = bytes.fromhex(written)
    words = struct.unpack(f">{len(raw) // 4}I", raw)
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    return getattr(address, "ipv4_mapped", None) or address


def _overlap(one: Address, other: Address) -> bool:
    return one == other or one.is_unspecified or other.is_unspecified


def _listener(entry: _Entry) -> Listener:
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):  # it is another user's, or has just ended
            if f"socket:[{entry.inode}]" in map(_target, list(descriptors.iterdir())):
                program = (descriptors.parent / "comm").read_text().strip()
                return Listener(int(descriptors.parent.name), program)
    return Listener(user=_user_name(entry.uid))


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _is_answered(family: int, address: str, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as knocking:
        knocking.settimeout(_KNOCK_S)
        return knocking.connect_ex((address, port)) == 0
