"""Addresses in one form, and sockets that listen on them."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exai.core.addresses import canonical_address, canonical_host, is_loopback
from exai.transports.listening import listening_socket


@pytest.mark.parametrize(
    ("literal", "canonical"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_has_one_form(literal: str, canonical: str) -> None:
    assert canonical_address(literal) == canonical


@pytest.mark.parametrize("literal", ["", "localhost", "127.1", "0x7f.0.0.1", "127.0.0.1%eth0"])
def test_what_is_no_address_is_refused(literal: str) -> None:
    with pytest.raises(ValueError, match="address"):
        canonical_address(literal)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", "localhost"),
        ("LocalHost:8079", "localhost"),
        ("localhost.", "localhost"),
        ("127.0.0.1:8079", "127.0.0.1"),
        ("[::1]:8079", "::1"),
        ("[::1]", "::1"),
        ("::1", "::1"),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1"),
        ("daemon.example:", "daemon.example"),
        ("", ""),
        (":8079", ""),
        ("[localhost]", ""),
        ("[::1", ""),
        ("[::1]x", ""),
        ("localhost:8079x", ""),
        ("localhost:80:79", ""),
        ("user@localhost", "user@localhost"),
    ],
)
def test_a_host_is_told_without_its_port(text: str, host: str) -> None:
    assert canonical_host(text) == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "::1"])
def test_what_never_leaves_the_machine_is_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "::",
        "192.0.2.7",
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
    ],
)
def test_all_else_is_not(host: str) -> None:
    assert not is_loopback(host)


@given(st.text())
def test_any_text_is_judged_without_an_error(text: str) -> None:
    assert canonical_host(canonical_host(text)) in (canonical_host(text), "")
    is_loopback(canonical_host(text))


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
