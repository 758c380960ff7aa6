"""How many messages may come: token buckets for the daemon, each address, each principal.

Reconnecting refills nothing: a bucket belongs to who sends, not to a connection. Failed
hellos have buckets of their own, which a valid token never meets: therefore one address is one
bucket there, whoever shares it.
"""

from collections import OrderedDict
from collections.abc import Sequence
from enum import Enum, auto

from exai.core.addresses import network_of, own_network_of
from exai.core.clock import Clock
from exai.core.config import RatesConfig

_MAX_BUCKETS = 10_000
_REFUSALS_PER_S = 1000
_REFUSALS_AT_ONCE = 100
_DAEMON = "daemon"


class _Bucket:
    """`level` tokens at `at`; a token comes back every `1 / per_s` seconds."""

    __slots__ = ("_at", "_burst", "_level", "_per_s", "is_told")

    def __init__(self, per_s: float, burst: int, now: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._level = float(burst)
        self._at = now
        self.is_told = False

    def wait_s(self, now: float) -> float:
        """Return how long until there is a token, 0 if there is one."""
        self._level = min(self._burst, self._level + (now - self._at) * self._per_s)
        self._at = now
        return 0.0 if self._level >= 1 else (1 - self._level) / self._per_s

    def take(self) -> None:
        self._level -= 1


class _Buckets:
    """Buckets of one kind by name, bounded: what was used longest ago is full again, or goes."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def bucket(self, name: str, now: float) -> _Bucket | None:
        """Return the bucket of a name; None where no rate is set."""
        if not self._per_s:
            return None
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(self._per_s, self._burst, now)
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket


class Refusal(Enum):
    """How a peer is not let in."""

    SAY_WHY = auto()
    REFUSE = auto()
    """Too many were refused there lately."""
    REFUSE_SILENTLY = auto()
    """And that stands in the log already."""


class RateLimiter:
    """Takes note of every message; a rate of 0 is none."""

    def __init__(
        self, rates: RatesConfig, clock: Clock, trusted_proxies: Sequence[str] = ()
    ) -> None:
        self._clock = clock
        self._counts_addresses = rates.address_per_s > 0
        self._trusted_proxies = trusted_proxies
        self._daemon = _Buckets(rates.daemon_per_s, rates.daemon_burst)
        self._addresses = _Buckets(rates.address_per_s, rates.address_burst)
        self._principals = _Buckets(rates.principal_per_s, rates.principal_burst)
        self._refusals = _Buckets(_REFUSALS_PER_S, _REFUSALS_AT_ONCE)
        per_minute = rates.failed_hellos_per_minute
        self._failed_hellos = _Buckets(per_minute / 60, per_minute)
        self._other_refusals = _Buckets(per_minute / 60, per_minute)

    @property
    def bucket_count(self) -> int:
        """Return how many buckets are kept."""
        kinds = (self._daemon, self._addresses, self._principals, self._refusals)
        return sum(map(len, (*kinds, self._failed_hellos, self._other_refusals)))

    def take(self, principal: str, address: str) -> float:
        """Count one message and return 0; or return how long until it may come, uncounted."""
        now = self._clock.monotonic_s()
        buckets = (
            self._principals.bucket(principal, now),
            self._address_bucket(address, now),
            self._daemon.bucket(_DAEMON, now),
        )
        wait_s = 0.0
        for bucket in buckets:
            if bucket is not None:
                wait_s = max(wait_s, bucket.wait_s(now))
        if not wait_s:
            for bucket in buckets:
                if bucket is not None:
                    bucket.take()
        return wait_s

    def take_refusal(self, principal: str) -> float:
        """Count one refusal and return 0; or return how long until it may be said, uncounted.

        To refuse costs little, but not nothing: who does not listen to it is read more slowly.
        """
        now = self._clock.monotonic_s()
        bucket = self._refusals.bucket(principal, now)
        assert bucket is not None
        wait_s = bucket.wait_s(now)
        if not wait_s:
            bucket.take()
        return wait_s

    def note_refused(self, address: str, *, is_failed_hello: bool) -> Refusal:
        """Count a peer that is not let in, and return what it, and the log, are told."""
        now = self._clock.monotonic_s()
        buckets = self._failed_hellos if is_failed_hello else self._other_refusals
        bucket = buckets.bucket(network_of(address), now)
        if bucket is None:
            return Refusal.SAY_WHY
        if not bucket.wait_s(now):
            bucket.take()
            bucket.is_told = False
            return Refusal.SAY_WHY
        if bucket.is_told:
            return Refusal.REFUSE_SILENTLY
        bucket.is_told = True
        return Refusal.REFUSE

    def _address_bucket(self, address: str, now: float) -> _Bucket | None:
        if not self._counts_addresses:
            return None
        network = own_network_of(address, self._trusted_proxies)
        return None if network is None else self._addresses.bucket(network, now)
