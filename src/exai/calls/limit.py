"""How many may run at once. Who does is `permits`' concern.

A limit may change over time, by itself (from what it observes) or by an operator's hand.
"""

from abc import ABC, abstractmethod
from enum import Enum, auto

import msgspec

from exai.core.errors import ErrorCode
from exai.core.outcomes import Completed, Outcome

_SIGNS_OF_CONGESTION = {ErrorCode.TIMEOUT, ErrorCode.RATE_LIMITED, ErrorCode.PROVIDER_UNAVAILABLE}
_STATUSES_OF_CONGESTION = {408, 429, 502, 503, 504, 529}


class Ending(Enum):
    """What the end of some work says about the capacity of whoever did it."""

    SUCCESS = auto()
    DROPPED = auto()
    """It was too much: a time-out, a 429, a 503."""
    IGNORED = auto()
    """Nothing: it was cancelled, or failed for reasons of its own."""
    UNUSED = auto()
    """Nothing, not even how long it takes: it did not begin."""


class ServiceSample(msgspec.Struct, frozen=True):
    """One permit's use: for how long, how many were in use with it at its end, how it ended."""

    service_s: float
    in_use: int
    ending: Ending


class Limit(ABC):
    """A number of permits: `permit_count`, at least one, is how many exist now."""

    permit_count: int

    @abstractmethod
    def observe(self, sample: ServiceSample) -> None:
        """Learn from a permit that came back."""


class FixedLimit(Limit):
    """A number from the configuration."""

    def __init__(self, permit_count: int) -> None:
        if permit_count < 1:
            raise ValueError(f"a limit needs at least one permit, not {permit_count}")
        self.permit_count = permit_count

    def observe(self, sample: ServiceSample) -> None:
        """Learn nothing: it stays as it is."""


def ending_of(outcome: Outcome) -> Ending:
    """Return what an outcome says about capacity."""
    if isinstance(outcome, Completed):
        return Ending.SUCCESS
    details = outcome.error.details or {}
    congested = (
        outcome.error.code in _SIGNS_OF_CONGESTION
        or details.get("status") in _STATUSES_OF_CONGESTION
    )
    return Ending.DROPPED if congested else Ending.IGNORED
