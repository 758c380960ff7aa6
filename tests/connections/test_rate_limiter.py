"""Buckets: what comes at once, what comes back, and whose it is."""

import pytest

from exai.connections.rate_limiter import RateLimiter, Refusal
from exai.core.config import RatesConfig
from exai.testing.hand_clock import HandClock

LOCAL, ADDRESS, OTHER = "127.0.0.1", "192.0.2.1", "192.0.2.2"


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def taken(limiter: RateLimiter, principal: str, address: str = LOCAL, tries: int = 100) -> int:
    return sum(limiter.take(principal, address) == 0 for _ in range(tries))


def test_a_burst_passes_and_then_so_many_a_second(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(principal_per_s=4, principal_burst=10), clock)
    assert taken(limiter, "a") == 10
    assert limiter.take("a", LOCAL) == pytest.approx(0.25)
    clock.now += 0.25
    assert taken(limiter, "a") == 1
    clock.now += 1.5
    assert taken(limiter, "a") == 6
    clock.now += 1000
    assert taken(limiter, "a") == 10


def test_each_principal_has_its_own_and_reconnecting_refills_nothing(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(principal_per_s=1, principal_burst=3), clock)
    assert [taken(limiter, "a", ADDRESS), taken(limiter, "a", OTHER), taken(limiter, "b")] == [
        3, 0, 3,
    ]  # fmt: skip


def test_an_address_is_one_whoever_comes_from_it_but_never_this_machine(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(address_per_s=1, address_burst=3), clock)
    assert taken(limiter, "a", ADDRESS) + taken(limiter, "b", ADDRESS) == 3
    assert taken(limiter, "a", OTHER) == 3
    assert taken(limiter, "a", LOCAL) == taken(limiter, "a", "::1") == 100


def test_a_trusted_proxy_that_names_nobody_has_no_rate_of_its_own(clock: HandClock) -> None:
    rates = RatesConfig(address_per_s=1, address_burst=3, failed_hellos_per_minute=1)
    limiter = RateLimiter(rates, clock, trusted_proxies=("192.0.2.0/31",))
    assert taken(limiter, "a", ADDRESS) == 100
    assert taken(limiter, "a", OTHER) == 3
    assert limiter.note_refused(ADDRESS, is_failed_hello=True) is Refusal.SAY_WHY
    assert limiter.note_refused(ADDRESS, is_failed_hello=True) is Refusal.REFUSE


def test_refusals_come_at_a_pace_too(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(), clock)
    assert sum(limiter.take_refusal("a") == 0 for _ in range(1000)) == 100
    assert limiter.take_refusal("a") == pytest.approx(0.001)
    assert limiter.take_refusal("b") == 0
    clock.now += 0.005
    assert sum(limiter.take_refusal("a") == 0 for _ in range(1000)) == 5


def test_an_ipv6_network_is_one_address(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(address_per_s=1, address_burst=3), clock)
    own = [f"2001:db8:0:1::{n:x}" for n in range(1, 50)]
    assert sum(limiter.take("a", address) == 0 for address in own) == 3
    assert taken(limiter, "a", "2001:db8:0:2::1") == 3


def test_what_is_refused_for_one_reason_counts_nowhere(clock: HandClock) -> None:
    rates = RatesConfig(principal_per_s=1, principal_burst=2, daemon_per_s=1, daemon_burst=5)
    limiter = RateLimiter(rates, clock)
    assert taken(limiter, "a") == 2
    assert taken(limiter, "b") + taken(limiter, "c") == 3


def test_no_rate_is_no_limit(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(principal_per_s=0), clock)
    assert taken(limiter, "a", tries=5000) == 5000


def test_hellos_may_fail_so_often_from_one_network_each_minute(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(failed_hellos_per_minute=2), clock)
    verdicts = [limiter.note_refused(ADDRESS, is_failed_hello=True) for _ in range(5)]
    assert verdicts == [
        Refusal.SAY_WHY, Refusal.SAY_WHY,
        Refusal.REFUSE, Refusal.REFUSE_SILENTLY, Refusal.REFUSE_SILENTLY,
    ]  # fmt: skip
    assert limiter.note_refused(OTHER, is_failed_hello=True) is Refusal.SAY_WHY
    clock.now += 31
    assert limiter.note_refused(ADDRESS, is_failed_hello=True) is Refusal.SAY_WHY
    assert limiter.note_refused(ADDRESS, is_failed_hello=True) is Refusal.REFUSE


def test_what_else_is_refused_is_noted_as_often_and_apart(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(failed_hellos_per_minute=1), clock)
    verdicts = [limiter.note_refused(ADDRESS, is_failed_hello=False) for _ in range(3)]
    assert verdicts == [Refusal.SAY_WHY, Refusal.REFUSE, Refusal.REFUSE_SILENTLY]
    assert limiter.note_refused(ADDRESS, is_failed_hello=True) is Refusal.SAY_WHY


def test_addresses_that_come_and_go_are_not_kept_for_ever(clock: HandClock) -> None:
    limiter = RateLimiter(RatesConfig(), clock)
    for n in range(20_000):
        limiter.note_refused(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", is_failed_hello=True)
    assert limiter.bucket_count <= 10_000
