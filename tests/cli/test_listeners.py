"""Who listens on a port, as the system tells."""

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from exai.cli.checks.listeners import Listener, find_listener


def own_name() -> str:
    return Path("/proc/self/comm").read_text().strip()


@contextmanager
def listening_beside(bound: str, family: socket.AddressFamily, other: str) -> Iterator[int]:
    """Listen, and yield the port: one on which nobody listens at another address meanwhile."""
    with ExitStack() as stack:
        while True:
            server = stack.enter_context(socket.create_server((bound, 0), family=family))
            port: int = server.getsockname()[1]
            reserved = stack.enter_context(socket.socket())
            with suppress(OSError):
                reserved.bind((other, port))
                break
        yield port


@pytest.mark.parametrize("asked_for", ["127.0.0.1", "localhost", "0.0.0.0"])
@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_who_is_in_the_way_is_named(bound: str, asked_for: str) -> None:
    with socket.create_server((bound, 0)) as server:
        port = server.getsockname()[1]
        found = find_listener(asked_for, port)
    assert found == Listener(os.getpid(), own_name())
    assert str(found) == f"{own_name()} (pid {os.getpid()})"
    assert find_listener(asked_for, port) is None


@pytest.mark.parametrize("bound", ["::1", "::"])
def test_the_other_kind_of_address_is_in_nobodys_way(bound: str) -> None:
    with listening_beside(bound, socket.AF_INET6, "127.0.0.1") as port:
        assert find_listener("::1", port) == Listener(os.getpid(), own_name())
        assert find_listener("127.0.0.1", port) is None


def test_one_for_both_kinds_of_address_is_in_the_way_of_both() -> None:
    both = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with both as server:
        assert find_listener("127.0.0.1", server.getsockname()[1]) is not None


def test_another_address_is_in_nobodys_way() -> None:
    with listening_beside("127.0.0.2", socket.AF_INET, "127.0.0.1") as port:
        assert find_listener("127.0.0.1", port) is None


def test_what_the_system_does_not_tell_is_left_out() -> None:
    assert str(Listener(user="www-data")) == "a process of www-data"
    assert str(Listener()) == "another process"
