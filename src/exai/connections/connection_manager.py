"""How many connections there are, and whether one more may come.

Counts connections by address and by principal; a per-address limit never applies where many
share one address: on loopback, and behind a trusted proxy that does not tell who is there.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

from exai.core.addresses import own_network_of
from exai.core.channel import Channel
from exai.core.identity import Principal
from exai.protocols import close_codes
from exai.protocols.hello import Refused

_REQUESTS = "requests"


class ConnectionManager:
    """Admits and counts connections, and requests over HTTP apart. A limit of 0 is none."""

    def __init__(
        self,
        max_connections: int,
        max_connections_per_address: int,
        max_connections_by_principal: Mapping[str, int],
        trusted_proxies: Sequence[str],
    ) -> None:
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._max_by_principal = max_connections_by_principal
        self._trusted_proxies = trusted_proxies
        self._channels: set[Channel] = set()
        self._by_address: Counter[str] = Counter()
        self._by_principal: Counter[str] = Counter()
        self._over_http: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many connections there are, those that have not said hello included."""
        return len(self._channels)

    @contextmanager
    def admit(self, channel: Channel) -> Iterator[None]:
        """Count a connection while the context is open; raises `Refused`."""
        if len(self._channels) >= self._max_connections:
            raise Refused(close_codes.TRY_AGAIN_LATER)
        network = own_network_of(channel.remote_address, self._trusted_proxies)
        if network and self._is_full(self._by_address[network], self._max_per_address):
            raise Refused(close_codes.CONNECTION_LIMIT)
        self._channels.add(channel)
        try:
            with _Counted(self._by_address, network) if network else nullcontext():
                yield
        finally:
            self._channels.remove(channel)

    def admit_request(self) -> "_Counted":
        """Count a request over HTTP as a connection while it is served; raises `Refused`."""
        if self._over_http[_REQUESTS] >= self._max_connections:
            raise Refused(close_codes.TRY_AGAIN_LATER)
        return _Counted(self._over_http, _REQUESTS)

    def admit_principal(self, principal: Principal, *, takes_over: bool) -> "_Counted":
        """Count a principal's connection while the context is open; raises `Refused`.

        One that takes the place of another is let in: the other is about to go.
        """
        limit = self._max_by_principal.get(principal.name, 0)
        if not takes_over and self._is_full(self._by_principal[principal.name], limit):
            raise Refused(close_codes.CONNECTION_LIMIT)
        return _Counted(self._by_principal, principal.name)

    @staticmethod
    def _is_full(count: int, limit: int) -> bool:
        return 0 < limit <= count


class _Counted:
    """A context that counts. A class, since each HTTP request of an MCP client enters one."""

    __slots__ = ("_counter", "_key")

    def __init__(self, counter: Counter[str], key: str) -> None:
        self._counter = counter
        self._key = key

    def __enter__(self) -> None:
        self._counter[self._key] += 1

    def __exit__(self, *raised: object) -> None:
        self._counter[self._key] -= 1
        if not self._counter[self._key]:
            del self._counter[self._key]
