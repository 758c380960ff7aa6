"""A permit has an owner, or is free."""

from typing import Any

import msgspec
import pytest

from exai.calls.limit import Ending, FixedLimit, ServiceSample, ending_of
from exai.calls.permits import PermitPool
from exai.core.errors import ErrorCode, ErrorInfo
from exai.core.outcomes import Completed, Failed, Outcome


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


def failed(code: ErrorCode, **details: Any) -> Failed:
    return Failed(ErrorInfo(code, "it failed", retryable=True, details=details or msgspec.UNSET))


@pytest.mark.parametrize(
    ("outcome", "ending"),
    [
        (Completed([]), Ending.SUCCESS),
        (failed(ErrorCode.TOOL_EXECUTION_ERROR), Ending.IGNORED),
        (failed(ErrorCode.PROVIDER_ERROR, status=401), Ending.IGNORED),
        (failed(ErrorCode.PROVIDER_ERROR, status=429), Ending.DROPPED),
        (failed(ErrorCode.PROVIDER_ERROR, status=503), Ending.DROPPED),
        (failed(ErrorCode.TIMEOUT, phase="run"), Ending.DROPPED),
    ],
)
def test_only_signs_of_congestion_count_against_a_limit(outcome: Outcome, ending: Ending) -> None:
    assert ending_of(outcome) is ending


def test_a_fixed_limit_learns_nothing() -> None:
    limit = FixedLimit(3)
    limit.observe(ServiceSample(1.0, 3, Ending.DROPPED))
    assert limit.permit_count == 3
