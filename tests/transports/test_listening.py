"""Sockets that listen on an address."""

import os
import socket

import pytest

from exai.transports.listening import listening_socket, take_over


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


def test_an_inherited_socket_is_taken_over_where_it_listens_as_configured() -> None:
    listener = listening_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    for wanted in (port, 0):
        taken = take_over(os.dup(listener.fileno()), "localhost", wanted)
        assert taken is not None
        assert taken.getsockname() == ("127.0.0.1", port)
        taken.close()
    for host, wanted in (("127.0.0.1", port + 1), ("0.0.0.0", port), ("::1", port)):
        descriptor = os.dup(listener.fileno())
        assert take_over(descriptor, host, wanted) is None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    assert take_over(None, "127.0.0.1", port) is None
    listener.close()


def test_what_is_inherited_and_no_listening_socket_is_left_alone() -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket() as unbound, open(os.devnull) as plain:
        for found in (one, unbound, plain):
            assert take_over(found.fileno(), "127.0.0.1", 0) is None
            os.fstat(found.fileno())


def test_a_paused_listener_leaves_who_comes_in_the_backlog() -> None:
    with listening_socket("127.0.0.1", 0) as listener:
        listener.setblocking(False)
        successor = socket.socket(fileno=os.dup(listener.fileno()))
        listener.pause()
        with socket.create_connection(listener.getsockname(), timeout=5):
            with pytest.raises(BlockingIOError):
                listener.accept()
            successor.settimeout(5)
            successor.accept()[0].close()
        successor.close()
