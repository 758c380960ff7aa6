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


class ConnectionManager:
    """Admits and counts connections. A limit of 0 is none."""

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
            with _counted(self._by_address, network) if network else nullcontext():
                yield
        finally:
            self._channels.remove(channel)

    @contextmanager
    def admit_principal(self, principal: Principal, *, takes_over: bool) -> Iterator[None]:
        """Count a principal's connection while the context is open; raises `Refused`.

        One that takes the place of another is let in: the other is about to go.
        """
        limit = self._max_by_principal.get(principal.name, 0)
        if not takes_over and self._is_full(self._by_principal[principal.name], limit):
            raise Refused(close_codes.CONNECTION_LIMIT)
        with _counted(self._by_principal, principal.name):
            yield

    @staticmethod
    def _is_full(count: int, limit: int) -> bool:
        return 0 < limit <= count


@contextmanager
def _counted(counter: Counter[str], key: str) -> Iterator[None]:
    counter[key] += 1
    try:
        yield
    finally:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
