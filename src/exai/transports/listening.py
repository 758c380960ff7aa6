"""Sockets that listen on an address, and keep their calm when file descriptors run out."""

import errno
import logging
import os
import socket
from contextlib import suppress
from typing import Any

BACKLOG = 1024
"""Connections that the kernel keeps for a busy daemon: a whole fleet may come at once."""

_log = logging.getLogger(__name__)


class Listener(socket.socket):
    """A listening socket that turns connections away while there is no descriptor for them.

    asyncio would log an error for every place in the backlog, and do so again each second,
    with whoever connects left hanging. (uvloop turns them away by itself.)
    """

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._reserve = _any_descriptor()
        self._is_turning_away = False
        self._is_paused = False

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection; raises `BlockingIOError` where there is none to be had."""
        if self._is_paused:
            raise BlockingIOError
        try:
            accepted = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._turn_away()
            raise BlockingIOError from error
        self._is_turning_away = False
        return accepted

    def pause(self) -> None:
        """Accept nobody from now on; who comes waits in the backlog."""
        self._is_paused = True

    def close(self) -> None:
        """Stop listening."""
        self._release_reserve()
        super().close()

    def _turn_away(self) -> None:
        """Spend the reserve on one connection, so that its peer is told by an end."""
        if not self._is_turning_away:
            self._is_turning_away = True
            _log.warning("out of file descriptors: connections are turned away")
        self._release_reserve()
        with suppress(OSError):
            super().accept()[0].close()
        with suppress(OSError):
            self._reserve = _any_descriptor()

    def _release_reserve(self) -> None:
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1


def listening_socket(host: str, port: int, inherited: socket.socket | None = None) -> Listener:
    """Return a bound TCP socket: the inherited one, taken over, or one on the given address.

    A name with both kinds of address means its IPv4 one. Raises `OSError`, which names the
    address that could not be had.
    """
    if inherited is not None:
        return Listener(inherited.detach())
    family, address = _resolved(host, port)
    bound = socket.create_server((address, port), family=family, backlog=BACKLOG)
    return Listener(bound.detach())


def take_over(descriptor: int | None, host: str, port: int) -> socket.socket | None:
    """Return an inherited socket, if it listens where we are to listen; else close it.

    What is no listening socket is left alone, and warned of. Raises `OSError` for an address
    that cannot be had.
    """
    if descriptor is None:
        return None
    try:
        inherited = socket.socket(fileno=descriptor)
    except OSError:
        _log.warning("inherited descriptor %d is no socket, and is left alone", descriptor)
        return None
    if not _is_listening(inherited):
        _log.warning("inherited socket %d does not listen, and is left alone", descriptor)
        inherited.detach()
        return None
    family, address = _resolved(host, port)
    bound_address, bound_port = inherited.getsockname()[:2]
    if (inherited.family, bound_address) == (family, address) and port in (0, bound_port):
        return inherited
    inherited.close()
    return None


def _is_listening(found: socket.socket) -> bool:
    return (
        found.family in (socket.AF_INET, socket.AF_INET6)
        and found.type == socket.SOCK_STREAM
        and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    )


def _resolved(host: str, port: int) -> tuple[int, str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    return family, str(address[0])


def _any_descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY)
