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

    def accept(self) -> tuple[socket.socket, Any]:
        """Return the next connection; raises `BlockingIOError` where there is none to be had."""
        try:
            accepted = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self._turn_away()
            raise BlockingIOError from error
        self._is_turning_away = False
        return accepted

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
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    bound = socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
    return Listener(bound.detach())


def _any_descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY)
