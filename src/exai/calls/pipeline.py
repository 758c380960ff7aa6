"""The story of one call: find, check, accept, admit, execute."""

from exai.calls.admission import AdmissionController
from exai.calls.call import Call
from exai.calls.flight import Flight
from exai.calls.ledger import Ledger
from exai.calls.settling import Settling
from exai.calls.tool_executor import ToolExecutor
from exai.core.clock import Clock
from exai.core.events import CallAccepted, EventSink
from exai.core.outcomes import Completed
from exai.core.tool import ToolSpec
from exai.tools.registry import ToolRegistry


class Pipeline:
    """Walks a call from its request to its tool's answer. What goes wrong is raised."""

    def __init__(
        self,
        tools: ToolRegistry,
        admission: AdmissionController,
        ledger: Ledger,
        settling: Settling,
        executor: ToolExecutor,
        clock: Clock,
        events: EventSink,
        call_timeout_s: float,
    ) -> None:
        self._tools = tools
        self._admission = admission
        self._ledger = ledger
        self._settling = settling
        self._executor = executor
        self._clock = clock
        self._events = events
        self._call_timeout_s = call_timeout_s

    async def run(self, call: Call) -> Completed:
        """Return what the call's tool answers; raises `ExaiError` for whatever else happens."""
        peer, arguments = call.peer, call.request.arguments
        tool = self._tools.require_tool(call.request.name, peer.principal)
        tool.check(arguments)
        demand = await tool.demand_of(arguments, peer.principal)
        with self._admission.reserve(
            call.call_id,
            principal=peer.principal.name,
            session_id=peer.session_id,
            scope=demand.scope,
        ) as place:
            await self._accept(call, tool.spec)
            await place.permits()
            await self._ledger.start(call)
            return await self._executor.execute(tool, arguments, Flight(call, self._clock))

    async def _accept(self, call: Call, spec: ToolSpec) -> None:
        """Store the call, tell its peer, and start its time."""
        call.spec = spec
        limits = (call.request.timeout_s, spec.timeout_s, self._call_timeout_s)
        await self._ledger.accept(call, min(limit for limit in limits if limit is not None))
        call.tell_accepted(self._clock.monotonic_s())
        self._settling.limit_time(call)
        self._events.emit(
            CallAccepted(
                call.call_id,
                call.request_id,
                call.peer.session_id,
                call.peer.principal.name,
                spec.name,
            )
        )
        if call.withdrawn is not None:
            raise call.withdrawn
