"""The call path, assembled: what stands between a request and its answer, wired together."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from exai.calls.admission import AdmissionController
from exai.calls.call_key import Epochs
from exai.calls.defects import Defects
from exai.calls.explaining import Explaining
from exai.calls.heartbeat import Heartbeat
from exai.calls.in_flight import InFlight
from exai.calls.ledger import Ledger
from exai.calls.limit import FixedLimit
from exai.calls.pipeline import Pipeline
from exai.calls.recovery import Recovery
from exai.calls.request_router import RequestRouter
from exai.calls.result_cache import ResultCache
from exai.calls.retention import Retention
from exai.calls.settling import Settling
from exai.calls.single_flight import SingleFlight
from exai.calls.tool_executor import ToolExecutor
from exai.core.call_store import CallStore
from exai.core.clock import Clock
from exai.core.config import LimitsConfig
from exai.core.events import EventSink
from exai.core.identity import Principal
from exai.tools.registry import ToolRegistry, readings_of


class CallPath:
    """Every part of a call's walk. `router` is the entrance, `background` what runs beside,
    `recovery` what is run before anybody may enter; `explaining` tells what became of calls.

    `sweeps` are run now and then, and expire what other stores hold; `on_session_end` is told of
    each session whose calls are over for good.
    """

    def __init__(
        self,
        limits: LimitsConfig,
        scope_limits: Mapping[str, int],
        *,
        tools: ToolRegistry,
        never_share: Sequence[str],
        store: CallStore,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        events: EventSink,
        health: Callable[[Principal], dict[str, Any]],
        progress_interval_s: float,
        on_session_end: Callable[[str], object],
        sweeps: Sequence[Callable[[], Awaitable[object]]] = (),
    ) -> None:
        self.admission = AdmissionController(
            limits, {scope: FixedLimit(count) for scope, count in scope_limits.items()}, clock
        )
        self.result_cache = ResultCache(limits.result_cache_entries, limits.result_cache_bytes)
        patterns = [reading for name in never_share for reading in readings_of(name)]
        self.sharing = SingleFlight(self.admission, self.result_cache, Epochs(), clock, patterns)
        in_flight, defects = InFlight(), Defects(events)
        ledger = self.ledger = Ledger(store, limits, clock, owner=secrets.token_hex(8))
        settling = Settling(ledger, in_flight, self.sharing, tasks, clock, events, defects)
        pipeline = Pipeline(
            tools,
            self.sharing,
            ledger,
            settling,
            ToolExecutor(limits.max_result_bytes),
            tasks,
            clock,
            events,
            defects,
            limits.call_timeout_s,
        )
        self.router = RequestRouter(
            pipeline,
            settling,
            in_flight,
            self.sharing,
            ledger,
            tools,
            tasks,
            clock,
            defects,
            health,
            on_session_end,
        )
        self.recovery = Recovery(
            ledger, in_flight, settling, pipeline, tasks, clock, events, defects
        )
        self.explaining = Explaining(ledger, in_flight, self.sharing, tools, clock)
        self.orphaned_permits = partial(_orphaned_permits, self.admission, self.sharing)
        self.background = (
            Heartbeat(in_flight, self.sharing, clock, progress_interval_s),
            Retention([ledger.settle_late, ledger.expire, *sweeps], defects, limits.result_ttl_s),
        )


def _orphaned_permits(
    admission: AdmissionController, sharing: SingleFlight
) -> Iterator[tuple[str, str]]:
    """Yield scope and owner of permits whose owner waits for nothing and runs nothing."""
    alive = sharing.owners()
    for scope, owner in admission.held_permits():
        if owner not in alive and owner.rpartition("/")[0] not in alive:  # `call/3`: a leaf
            yield scope, owner
