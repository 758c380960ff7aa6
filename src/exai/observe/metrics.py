"""Counts what happens, for Prometheus: names with units, labels that cannot grow without end.

Events are counted in plain dictionaries, since each call makes several; only a scrape turns
them into Prometheus's words. Gauges come from the health report of that moment.
`docs/metrics.md` lists all.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from exai.core import events
from exai.core.events import Event, EventSink

UNKNOWN = "_unknown"
"""The label of what nobody registered: callers may ask for any name."""

_MAX_TOOLS = 2000
_DURATION_BOUNDS_S = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600,
)  # fmt: skip

Labels = tuple[str, ...]


class Family(NamedTuple):
    """One metric: its name without `_total`, its help, its type and the names of its labels."""

    name: str
    help: str
    type: str
    labels: tuple[str, ...] = ()


class Histogram:
    """Counts of durations by bound, the last one without."""

    def __init__(self) -> None:
        self.counts = [0] * (len(_DURATION_BOUNDS_S) + 1)
        self.sum_s = 0.0

    def observe(self, duration_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(_DURATION_BOUNDS_S, duration_s)] += 1
        self.sum_s += duration_s

    def cumulated(self) -> list[tuple[str, float]]:
        """Return bounds as text and how many were not longer, as Prometheus wants them."""
        so_far, buckets = 0, []
        for bound, count in zip((*_DURATION_BOUNDS_S, "+Inf"), self.counts, strict=True):
            so_far += count
            buckets.append((str(bound), float(so_far)))
        return buckets


CALLS = Family(
    "exai_calls", "Calls that were accepted and have ended.", "counter", ("tool", "outcome")
)
DURATION = Family(
    "exai_call_duration_seconds", "From acceptance to the answer.", "histogram", ("tool",)
)
QUEUE = Family("exai_call_queue_seconds", "From acceptance to the start.", "histogram", ("tool",))
REJECTED = Family(
    "exai_rejected", "Calls that were refused before acceptance.", "counter", ("reason", "scope")
)
SHARED = Family(
    "exai_shared_calls", "Calls that were answered by the work of others.", "counter", ("how",)
)
TOKENS = Family(
    "exai_provider_tokens",
    "Tokens that models took and gave, once for each execution.",
    "counter",
    ("provider", "model", "direction"),
)
DEFECTS = Family("exai_defects", "Exceptions that nobody expected.", "counter")
REFUSED = Family("exai_connections_refused", "Peers that were not let in.", "counter", ("reason",))
COUNTERS = (CALLS, REJECTED, SHARED, TOKENS, DEFECTS, REFUSED)
HISTOGRAMS = (DURATION, QUEUE)


class Counted(NamedTuple):
    """What was counted up to one moment; it changes no more."""

    counters: dict[Family, list[tuple[Labels, int]]]
    histograms: dict[Family, list[tuple[Labels, list[tuple[str, float]], float]]]
    """Labels, cumulated buckets, and the sum in seconds."""


class Metrics(EventSink):
    """Hears every event and counts; `is_tool` tells whether a name is that of a tool."""

    def __init__(self, is_tool: Callable[[str], bool]) -> None:
        self._is_tool = is_tool
        self._tools: set[str] = set()
        self._counters: dict[Family, Counter[Labels]] = {each: Counter() for each in COUNTERS}
        self._histograms: dict[Family, defaultdict[Labels, Histogram]] = {
            each: defaultdict(Histogram) for each in HISTOGRAMS
        }
        self._handlers: Mapping[type[Event], Callable[[Any], None]] = {
            events.CallSettled: self._settled,
            events.CallRejected: self._rejected,
            events.WorkEnded: self._work_ended,
            events.CallFailedInside: lambda _: self._count(DEFECTS),
            events.ConnectionRefused: lambda event: self._count(REFUSED, event.reason),
        }

    def emit(self, event: Event) -> None:
        """Count one event, if it is one to count."""
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def counted(self) -> Counted:
        """Return what was counted until now."""
        return Counted(
            {family: list(counts.items()) for family, counts in self._counters.items()},
            {
                family: [(labels, each.cumulated(), each.sum_s) for labels, each in found.items()]
                for family, found in self._histograms.items()
            },
        )

    def _settled(self, event: events.CallSettled) -> None:
        tool = self._tool_label(event.tool)
        self._counters[CALLS][tool, event.code] += 1
        self._histograms[QUEUE][tool,].observe(event.queue_s)
        self._histograms[DURATION][tool,].observe(event.queue_s + event.run_s)
        if event.shared is not None:
            self._count(SHARED, event.shared)

    def _rejected(self, event: events.CallRejected) -> None:
        self._count(REJECTED, event.code, event.scope)

    def _work_ended(self, event: events.WorkEnded) -> None:
        who = (event.provider, event.model)
        self._counters[TOKENS][*who, "input"] += event.input_tokens
        self._counters[TOKENS][*who, "output"] += event.output_tokens

    def _count(self, family: Family, *labels: str) -> None:
        self._counters[family][labels] += 1

    def _tool_label(self, name: str) -> str:
        if name in self._tools:
            return name
        if not self._is_tool(name) or len(self._tools) >= _MAX_TOOLS:
            return UNKNOWN
        self._tools.add(name)
        return name


class Fanout(EventSink):
    """Hands each event to several sinks, in order."""

    def __init__(self, *sinks: EventSink) -> None:
        self._emits = [sink.emit for sink in sinks]

    def emit(self, event: Event) -> None:
        """Hand on one event."""
        for emit in self._emits:
            emit(event)
