"""Arithmetic of measurements: percentiles, histograms, fairness. Knows numbers only."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed; 0 of none."""
    if not ordered:
        return 0.0
    return ordered[max(math.ceil(len(ordered) * share) - 1, 0)]


def histogram_us(latencies_s: Iterable[float]) -> dict[str, int]:
    """Return how many latencies there are of each number of µs, at two significant digits."""
    counts = Counter(_two_digits(latency_s * 1e6) for latency_s in latencies_s)
    return {str(us): counts[us] for us in sorted(counts)}


def _two_digits(number: float) -> int:
    step = 10 ** max(math.floor(math.log10(max(number, 1.0))) - 1, 0)
    return int(round(number / step) * step)


def jain_index(shares: Sequence[float]) -> float:
    """Return how evenly something is shared: 1 is evenly, 1/n is all of it to one of n."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def median(values: Iterable[float]) -> float:
    """Return the median; 0 of none."""
    ordered = list(values)
    return statistics.median(ordered) if ordered else 0.0
