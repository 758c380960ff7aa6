"""Who is there: addresses as they are counted, and as proxies tell them."""

import pytest

from exai.core.addresses import network_of, origin_of, own_network_of

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
