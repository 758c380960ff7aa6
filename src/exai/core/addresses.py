"""Network addresses and host names in one canonical form.

Knows names and literals; knows nothing of sockets.
"""

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache

LOOPBACK_URLS = ("all://localhost", "all://127.0.0.0/8", "all://[::1]")
"""What never leaves this machine, in the patterns of the HTTP library: no proxy is asked for it."""

_IPV6_SITE_BITS = 64
_REMEMBERED = 64
"""The same few are asked for with each request, and parsing one takes longer than judging it."""
_HOST_AND_PORT = re.compile(r"(?:\[(?P<literal>[^\]]*)\]|(?P<name>[^:]*))(?::[0-9]*)?")


@lru_cache(_REMEMBERED)
def canonical_address(literal: str) -> str:
    """Return an IP address as everybody writes it: no scope, IPv4 where it is mapped into IPv6.

    Raises `ValueError` where `literal` is no address.
    """
    address = ipaddress.ip_address(literal)
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or ipaddress.IPv6Address(int(address)))
    return str(address)


def network_of(address: str) -> str:
    """Return what one peer may change its canonical address within: itself, or its IPv6 /64."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address, _IPV6_SITE_BITS), strict=False))


def is_in(address: str, networks: Sequence[str]) -> bool:
    """Tell whether a canonical address belongs to one of these addresses or networks."""
    return any(
        ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks
    )


def origin_of(peer: str, forwarded_for: Sequence[str], trusted_proxies: Sequence[str]) -> str:
    """Return where a connection really comes from, as far as trusted proxies tell.

    `forwarded_for` is what they wrote, the nearest last. Whoever is not trusted is not
    believed: the first of them, seen from here, is the origin.
    """
    origin = peer
    for told in reversed(forwarded_for):
        if not is_in(origin, trusted_proxies):
            break
        try:
            origin = canonical_address(told.strip())
        except ValueError:
            break
    return origin


def own_network_of(address: str, trusted_proxies: Sequence[str]) -> str | None:
    """Return the network by which a peer of this origin is counted; None where it has none.

    A loopback address is that of everybody on this machine, and a trusted proxy's is that of
    everybody behind it whom it does not name.
    """
    if is_loopback(address) or is_in(address, trusted_proxies):
        return None
    return network_of(address)


@lru_cache(_REMEMBERED)
def canonical_host(text: str) -> str:
    """Return a host's name, lower-case, or its canonical address, without a port.

    Takes what may stand in a `Host` header or in the configuration: `localhost:8079`,
    `[::1]:8079`, `::1`. Returns an empty text for what is none of these.
    """
    match = _HOST_AND_PORT.fullmatch(text)
    try:
        return canonical_address((match["literal"] or match["name"]) if match else text)
    except ValueError:
        name = match["name"].lower().removesuffix(".") if match and match["name"] else ""
        return "" if name.endswith(".") else name


@lru_cache(_REMEMBERED)
def is_loopback(host: str) -> bool:
    """Tell whether a canonical host never leaves this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
