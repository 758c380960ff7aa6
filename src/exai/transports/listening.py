"""Sockets that listen on an address."""

import socket

BACKLOG = 1024
"""Connections that the kernel keeps for a busy daemon: a whole fleet may come at once."""


def listening_socket(host: str, port: int) -> socket.socket:
    """Return a bound TCP socket; a name with both kinds of address means its IPv4 one.

    Raises `OSError`, which names the address that could not be had.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    return socket.create_server((str(address[0]), port), family=family, backlog=BACKLOG)
