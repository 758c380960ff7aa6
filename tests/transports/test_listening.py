"""Sockets that listen on an address."""

import socket

import pytest

from exai.transports.listening import listening_socket


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_listening_socket_can_be_connected_to(host: str) -> None:
    with listening_socket(host, 0) as listener:
        address = listener.getsockname()
        assert address[0] == "127.0.0.1"
        with socket.create_connection(address, timeout=5):
            pass


def test_an_address_that_cannot_be_had_is_named() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=str(port)):
            listening_socket("127.0.0.1", port)
