"""When a server that ended is started again."""

from hypothesis import given
from hypothesis import strategies as st

from exai.upstream.restart_policy import RestartPolicy

POLICY = RestartPolicy()


def test_delays_double_up_to_where_we_give_up() -> None:
    delays = [POLICY.delay_s(n, 0.5) for n in range(1, POLICY.give_up_after + 1)]
    assert delays == [0.5, 1.0, 2.0, 4.0, 8.0, 300.0]
    assert [POLICY.gives_up(n) for n in (1, 5, 6, 60)] == [False, False, True, True]


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_every_delay_is_bounded_and_spread(short_lives: int, chance: float) -> None:
    delay_s = POLICY.delay_s(short_lives, chance)
    assert 0.4 <= delay_s <= 360
    assert abs(delay_s - POLICY.delay_s(short_lives, 0.5)) <= 0.2 * POLICY.delay_s(short_lives, 0.5)


def test_a_life_that_was_ready_for_long_enough_counts_for_the_server() -> None:
    assert POLICY.is_short(0.0)
    assert POLICY.is_short(29.9)
    assert not POLICY.is_short(30.0)


def test_a_server_that_others_start_is_looked_for_more_often() -> None:
    policy = RestartPolicy(jitter=0.0).for_others()
    assert policy.delay_s(policy.give_up_after, 0.5) == policy.rare_look_s
    assert policy.delay_s(1, 0.5) == RestartPolicy(jitter=0.0).delay_s(1, 0.5)
