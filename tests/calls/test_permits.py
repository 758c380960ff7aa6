"""A permit has an owner, or is free."""

import pytest

from exai.calls.limit import FixedLimit
from exai.calls.permits import PermitPool


def test_a_pool_lists_its_owners() -> None:
    pool = PermitPool("global", FixedLimit(2))
    pool.acquire_nowait("a")
    pool.acquire_nowait("b")
    assert pool.owners == {"a", "b"}
    assert not pool.has_free


def test_releasing_twice_is_a_defect() -> None:
    pool = PermitPool("global", FixedLimit(1))
    pool.acquire_nowait("a")
    pool.release("a")
    with pytest.raises(RuntimeError, match="a holds no permit of global"):
        pool.release("a")


def test_nobody_can_release_another_ones_permit() -> None:
    pool = PermitPool("global", FixedLimit(1))
    pool.acquire_nowait("a")
    with pytest.raises(RuntimeError):
        pool.release("b")
    assert pool.owners == {"a"}


def test_asking_twice_is_a_defect() -> None:
    pool = PermitPool("global", FixedLimit(2))
    pool.acquire_nowait("a")
    with pytest.raises(RuntimeError, match="already"):
        pool.acquire_nowait("a")


def test_a_permit_that_is_not_free_is_not_given() -> None:
    pool = PermitPool("global", FixedLimit(1))
    pool.acquire_nowait("a")
    with pytest.raises(RuntimeError, match="no free permit"):
        pool.acquire_nowait("b")


def test_a_limit_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FixedLimit(0)
