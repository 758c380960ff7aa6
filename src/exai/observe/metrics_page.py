"""Prometheus's text format: counters, histograms and gauges as one page."""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from exai.observe.gauges import GAUGES, Report
from exai.observe.metrics import Counted, Family, Labels


class _Families(Collector):
    """What the daemon counted, and what it says of itself, as Prometheus's families."""

    def __init__(self, counted: Counted, report: Report) -> None:
        self._counted = counted
        self._report = report

    def collect(self) -> Iterator[Metric]:
        """Yield every family, those without values too."""
        for family, counts in self._counted.counters.items():
            yield _metric(family, counts)
        for family, histograms in self._counted.histograms.items():
            yield _histogram(family, histograms)
        for gauge in GAUGES:
            yield _metric(gauge.family, gauge.values(self._report))


def _histogram(
    family: Family, histograms: Iterable[tuple[Labels, list[tuple[str, float]], float]]
) -> Metric:
    metric = Metric(family.name, family.help, family.type)
    for labels, buckets, sum_s in histograms:
        named = dict(zip(family.labels, labels, strict=True))
        for bound, count in buckets:
            metric.add_sample(f"{family.name}_bucket", {**named, "le": bound}, count)
        metric.add_sample(f"{family.name}_count", named, buckets[-1][1])
        metric.add_sample(f"{family.name}_sum", named, sum_s)
    return metric


def _metric(family: Family, values: Iterable[tuple[Labels, float]]) -> Metric:
    metric = Metric(family.name, family.help, family.type)
    sample = f"{family.name}_total" if family.type == "counter" else family.name
    for labels, value in values:
        metric.add_sample(sample, dict(zip(family.labels, labels, strict=True)), value)
    return metric


def metrics_page(counted: Counted, report: Report) -> bytes:
    """Return everything in the text format, version 0.0.4. `report` is the health report."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(counted, report))
    return generate_latest(registry)
