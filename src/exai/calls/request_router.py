"""Every request about calls and tools meets its handler here; every exception its outcome.

What is about a connection itself (`bye`, `rotate_token`) stays with it. Handling never
waits: what must wait runs as a task of the daemon's group, so that a connection's reader
goes on reading, and a connection's end does not end its calls.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from typing import Any

from exai.calls.arguments_digest import digest_of_request
from exai.calls.call import Call
from exai.calls.defects import Defects
from exai.calls.in_flight import InFlight
from exai.calls.ledger import Ledger, acked_again, conflict, unknown
from exai.calls.pipeline import Pipeline
from exai.calls.settling import Settling
from exai.calls.single_flight import SingleFlight
from exai.core.call_store import CallRecord, CallState
from exai.core.clock import Clock
from exai.core.errors import (
    CallCancelled,
    CallInterrupted,
    ExaiError,
    daemon_stopping,
)
from exai.core.events import Whose
from exai.core.identity import Principal
from exai.core.outcomes import Failed
from exai.core.peer import Peer
from exai.core.replies import CallAnswered, CallProgressed, HealthReported, Reply, ToolsListed
from exai.core.requests import (
    Acknowledge,
    CallTool,
    CancelTool,
    GetResult,
    Health,
    ListTools,
    Request,
)
from exai.tools.registry import ToolRegistry

_REASON_LENGTH = 200
_HASHED_AT_ONCE_LENGTH = 262_144


class RequestRouter:
    """The one entrance to calls, for every protocol and every transport."""

    def __init__(
        self,
        pipeline: Pipeline,
        settling: Settling,
        in_flight: InFlight,
        sharing: SingleFlight,
        ledger: Ledger,
        tools: ToolRegistry,
        tasks: asyncio.TaskGroup,
        clock: Clock,
        defects: Defects,
        health: Callable[[Principal], dict[str, Any]],
        on_session_end: Callable[[str], object],
    ) -> None:
        self._pipeline = pipeline
        self._settling = settling
        self._in_flight = in_flight
        self._sharing = sharing
        self._ledger = ledger
        self._tools = tools
        self._tasks = tasks
        self._clock = clock
        self._defects = defects
        self._health = health
        self._on_session_end = on_session_end
        self._is_draining = False
        boot = secrets.token_hex(8)
        self._call_ids = (f"{boot}-{number:x}" for number in itertools.count(1))
        self._handlers: dict[type[Request], Callable[[Peer, Any], None]] = {
            CallTool: self._call_tool,
            CancelTool: self._cancel_tool,
            GetResult: self._get_result,
            Acknowledge: self._acknowledge,
            ListTools: self._list_tools,
            Health: self._report_health,
        }

    def handle_message(self, peer: Peer, request: Request) -> None:
        """Do what `peer` asks, or see to it that it is done. Never waits, never raises."""
        self._handlers[type(request)](peer, request)

    async def end_session(self, session_id: str, principal: str) -> None:
        """End a session's calls as if cancelled, and forget what was kept for it."""
        for call in self._in_flight.of_session(session_id):
            self._settling.end(call, CallCancelled("the session ended", **call.possible_effect()))
        await self._in_flight.wait_session_over(session_id)
        self._on_session_end(session_id)
        with self._defects.contained("ending a session", Whose(session_id)):
            await self._ledger.end_session(session_id, principal)

    def has_calls(self, session_id: str) -> bool:
        """Tell whether any call of a session is under way."""
        return bool(self._in_flight.of_session(session_id))

    def catch_up(self, peer: Peer) -> set[str]:
        """Tell a peer that came back how far its calls under way are; return their requests."""
        calls = self._in_flight.of_session(peer.session_id)
        for call in calls:
            if call.is_accepted:
                self._sharing.catch_up(call)
        return {call.request_id for call in calls}

    async def forget_sent(self, peer: Peer) -> None:
        """Let no result of a peer that came back count as sent: all are sent again."""
        with self._defects.contained("resuming", Whose(peer.session_id)):
            await self._ledger.forget_sent(peer.session_id)

    async def knows(self, peer: Peer, request_id: str) -> bool:
        """Tell whether a request is under way, or remembered."""
        if self._in_flight.find(peer.session_id, request_id) is not None:
            return True
        known = await self._defects.outcome_of(
            self._ledger.knows(peer.session_id, request_id),
            "limiting the rate",
            Whose(peer.session_id, request_id),
        )
        return known is not False

    async def owed_to(self, peer: Peer) -> list[str]:
        """Return a session's requests that are accepted and not acknowledged, oldest first.

        Where that cannot be read, those that are under way.
        """
        owed = await self._defects.outcome_of(
            self._ledger.owed(peer.session_id), "resuming", Whose(peer.session_id)
        )
        if not isinstance(owed, Failed):
            return owed
        calls = self._in_flight.of_session(peer.session_id)
        return [call.request_id for call in calls if call.is_accepted]

    async def tell_again(self, peer: Peer, request_id: str, say: Callable[[Reply], object]) -> None:
        """Say a request's answer once more, if it has one and that is not erased."""
        await self._tell_stored(peer, request_id, say, is_asked=False)

    async def note_sent(self, peer: Peer, request_ids: list[str]) -> None:
        """Take note that results were written to a socket."""
        with self._defects.contained("noting what was sent", Whose(peer.session_id)):
            await self._ledger.mark_sent(peer.session_id, request_ids)

    async def drain(self, drain_s: float) -> int:
        """Take no new calls, let running ones end within `drain_s`, then end the rest.

        Returns how many these were.
        """
        self._is_draining = True
        late: list[Call] = []
        try:
            async with asyncio.timeout(drain_s):
                await self._stop_waiting()
                await self._in_flight.wait_empty()
        except TimeoutError:
            late = list(self._in_flight)
            for call in late:
                self._cut_off(call)
            await self._in_flight.wait_empty()
        with self._defects.contained("settling"):
            await self._ledger.settle_late()
        return len(late)

    async def _stop_waiting(self) -> None:
        """Leave what waits to the next process, if it will know of it."""
        self._tools.stop_waiting()
        for call in self._in_flight:
            if not self._ledger.is_durable and call.is_waiting:
                self._settling.end(call, daemon_stopping())
        # Not one by one: work must not begin for a call while the next process is left another
        # of the same key, and will do it.
        while arriving := next((c for c in self._in_flight if not c.is_accepted), None):
            await arriving.wait_moved()
        for call in self._in_flight:
            if call.is_waiting:
                self._leave_to_next(call)

    def _leave_to_next(self, call: Call) -> bool:
        """Leave a call to the next process, if anybody can ask for its answer there."""
        if call.peer.comes_back:
            return self._settling.set_aside(call)
        if call.request.idempotency_key is None:
            self._settling.end(call, daemon_stopping())
            return True
        is_left = self._settling.set_aside(call)
        if is_left:  # its caller, who cannot wait for it, is to send it again
            call.peer.send(_refused(call.request_id, daemon_stopping()))
        return is_left

    def _cut_off(self, call: Call) -> None:
        """End a call that runs; what may run again is left to the next process."""
        is_first_run = call.is_idempotent and call.attempt == 1
        may_run_later = self._ledger.is_durable and (call.is_waiting or is_first_run)
        if not (may_run_later and self._leave_to_next(call)):
            may_have_run = bool(call.possible_effect())
            self._settling.end(call, CallInterrupted(may_have_run=may_have_run))

    def _call_tool(self, peer: Peer, request: CallTool) -> None:
        request_id = request.request_id or f"exai-{secrets.token_hex(8)}"
        earlier = self._in_flight.find(peer.session_id, request_id)
        if earlier is None:
            call = Call(next(self._call_ids), request, request_id, peer)
            self._in_flight.register(call)
            call.task = self._tasks.create_task(self._arrive(call))
        elif earlier.digest == digest_of_request(request):
            earlier.join()
        elif earlier.is_accepted:
            peer.send(_refused(request_id, conflict(request_id)))
        else:  # the earlier one may yet turn out to be the one in conflict
            self._tasks.create_task(self._call_once_moved(peer, request, earlier))

    async def _call_once_moved(self, peer: Peer, request: CallTool, earlier: Call) -> None:
        while not earlier.is_accepted and self._in_flight.has(earlier):
            await earlier.wait_moved()
        if not peer.has_ended:
            self._call_tool(peer, request)

    async def _arrive(self, call: Call) -> None:
        """See a call aboard a flight, which will answer it; or answer it here and now."""
        refusal = await self._defects.outcome_of(self._board(call), call.request.name, call.whose)
        if refusal is not None:
            await self._settling.settle(call, refusal)

    async def _board(self, call: Call) -> None:
        if call.size_bytes > _HASHED_AT_ONCE_LENGTH:
            await asyncio.to_thread(getattr, call, "digest")  # it is kept
        known = await self._ledger.find(call.peer.session_id, call.request_id)
        if known is not None:
            self._answer_again(call, known, conflict(call.request_id))
        elif not await self._find_by_key(call):
            if self._is_draining:
                raise daemon_stopping()
            await self._pipeline.board(call)

    async def _find_by_key(self, call: Call) -> bool:
        """Answer a call whose key stands for an earlier one, which may be under way."""
        idempotency_key = call.request.idempotency_key
        if idempotency_key is None:
            return False
        refusal = conflict(call.request_id, idempotency_key)
        while (earlier := self._in_flight.claim_key(call, idempotency_key)) is not None:
            if earlier.digest != call.digest:
                raise refusal
            if earlier.is_accepted and self._sharing.is_aboard(earlier) and not earlier.has_ended:
                await self._pipeline.follow(call, earlier)
                return True
            await earlier.wait_moved()
        known = await self._ledger.find_by_key(call.peer.principal.name, idempotency_key)
        if known is None:
            return False
        if known.is_unsettled and known.arguments_digest == call.digest:
            # It was left to the next process, which would know nothing of this request.
            raise daemon_stopping()
        self._answer_again(call, known, refusal)
        return True

    def _answer_again(self, call: Call, known: CallRecord, otherwise: ExaiError) -> None:
        """Answer a request that was settled before: nothing runs."""
        peer, request_id = call.peer, call.request_id
        if known.arguments_digest == call.digest:
            peer.send(
                acked_again(known, call)
                if known.is_unsettled
                else self._ledger.replay(known, request_id)
            )
        else:
            peer.send(_refused(request_id, otherwise))
            if call.is_asked_about or call.withdrawn is not None:
                is_own = (known.session_id, known.request_id) == (peer.session_id, request_id)
                own = self._ledger.replay(known, request_id) if is_own else unknown(request_id)
                peer.send(own)
        self._in_flight.unregister(call)

    def _cancel_tool(self, peer: Peer, request: CancelTool) -> None:
        call = self._in_flight.find(peer.session_id, request.request_id)
        if call is None:
            self._tasks.create_task(self._tell_stored(peer, request.request_id, peer.send))
            return
        reason = f": {request.reason[:_REASON_LENGTH]}" if request.reason else ""
        message = f"cancelled by the caller{reason}"
        self._settling.end(call, CallCancelled(message, **call.possible_effect()))

    def _get_result(self, peer: Peer, request: GetResult) -> None:
        call = self._in_flight.find(peer.session_id, request.request_id)
        if call is None:
            self._tasks.create_task(self._tell_stored(peer, request.request_id, peer.send))
        elif call.is_accepted:
            call.tell_progress(self._clock)
        else:
            call.is_asked_about = True

    async def _tell_stored(
        self,
        peer: Peer,
        request_id: str,
        say: Callable[[Reply], object],
        *,
        is_asked: bool = True,
    ) -> None:
        try:
            known = await self._ledger.find(peer.session_id, request_id)
            if known is not None and known.is_unsettled:
                say(self._postponed(known))
            elif known is not None and (is_asked or known.state is CallState.SETTLED):
                say(self._ledger.replay(known, request_id))
            elif is_asked:
                say(unknown(request_id))
        except ExaiError as error:
            say(_refused(request_id, error))
        except Exception as error:  # noqa: BLE001 - a store may fail in its own ways
            whose = Whose(peer.session_id, request_id)
            info = self._defects.report("get_result", error, whose)
            say(CallAnswered(request_id, Failed(info)))

    def _postponed(self, known: CallRecord) -> CallProgressed:
        """Return what is told of a call that the next process takes over."""
        now, message = self._clock.wall_s(), "waiting for the daemon's restart"
        return CallProgressed(known.request_id, known.tool, now, message=message)

    def _acknowledge(self, peer: Peer, request: Acknowledge) -> None:
        self._tasks.create_task(self._erase(peer, request.request_ids))

    async def _erase(self, peer: Peer, request_ids: list[str]) -> None:
        with self._defects.contained("ack", Whose(peer.session_id)):
            await self._ledger.acknowledge(peer.session_id, request_ids)

    def _list_tools(self, peer: Peer, request: ListTools) -> None:
        peer.send(ToolsListed(request.request_id, self._tools.visible_to(peer.principal)))

    def _report_health(self, peer: Peer, request: Health) -> None:
        peer.send(HealthReported(request.request_id, self._health(peer.principal)))


def _refused(request_id: str, error: ExaiError) -> CallAnswered:
    return CallAnswered(request_id, Failed(error.describe()))
