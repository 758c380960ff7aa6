"""Addresses in one form, as they are counted, and as proxies tell them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exai.core.addresses import (
    canonical_address,
    canonical_host,
    is_loopback,
    network_of,
    origin_of,
    own_network_of,
)

TRUSTED = ("10.0.0.0/8", "2001:db8::1")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
    ],
)
def test_what_counts_as_one_address(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "origin"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "10.1.1.1"], "203.0.113.9"),
        ("2001:db8::1", [" 2001:DB8:5::7 "], "2001:db8:5::7"),
        ("10.0.0.1", ["203.0.113.9", "nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2", "10.0.0.3"], "10.0.0.2"),
    ],
)
def test_only_trusted_proxies_are_believed(
    peer: str, forwarded_for: list[str], origin: str
) -> None:
    assert origin_of(peer, forwarded_for, TRUSTED) == origin


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
        ("localhost..", ""),
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


@pytest.mark.parametrize(
    ("origin", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("10.0.0.1", None),
        ("2001:db8::1", None),
        ("2001:db8::2", "2001:db8::/64"),
        ("127.0.0.1", None),
        ("127.8.8.8", None),
        ("::1", None),
        ("::2", "::/64"),
    ],
)
def test_who_shares_an_address_has_none_to_be_counted_by(origin: str, network: str | None) -> None:
    assert own_network_of(origin, TRUSTED) == network
