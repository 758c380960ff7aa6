"""A client that cuts its connections, says things twice, asks again, and compares the answers.

It keeps one session, however often it comes back. What it sent and the daemon does not name as
pending it sends again, as the protocol wants it; or it gives that up, and only asks for it.
"""

import asyncio
import random
import time
from contextlib import suppress

from bench.chaos.daemon_process import DaemonProcess
from bench.chaos.journal import Frame, Journal
from bench.chaos.mean_call import MeanCall, fields_of, same_by_key
from bench.chaos.mean_link import LinkLost, MeanLink
from bench.chaos.plan import CallPlan, ClientPlan

_LONGEST_PAUSE_S = 0.1
_LAST_WORD = "the-last-word"
_STORED_BECAUSE = ("acked", "pending", "progress")
"""What proves that the daemon remembers a request itself, not only another of the same key."""
_REFUSED_PAUSE_S = 0.2


class MeanClient:
    """One session, and all that it calls."""

    def __init__(self, plan: ClientPlan, journal: Journal, daemon: DaemonProcess) -> None:
        self._plan = plan
        self._journal = journal
        self._daemon = daemon
        self._calls: dict[str, MeanCall] = {}
        self._link: MeanLink | None = None
        self._session: Frame = {}
        self._successor: MeanLink | None = None
        self._is_back = asyncio.Event()
        self._is_over = asyncio.Event()
        self._tasks = asyncio.TaskGroup()
        self._groups = iter(plan.calls)

    async def run(self) -> None:
        """Make all calls, ask for all answers once more, acknowledge them, and leave."""
        async with asyncio.TaskGroup() as keeping:
            keeper = keeping.create_task(self._keep_connected())
            async with self._tasks:
                for _ in range(self._plan.outstanding):
                    self._tasks.create_task(self._work())
            await self._settle_up()
            keeper.cancel()

    async def _work(self) -> None:
        for group in self._groups:
            async with asyncio.TaskGroup() as twins:
                for plan in group:
                    twins.create_task(self._call(plan))

    async def _call(self, plan: CallPlan) -> None:
        call = MeanCall(plan, self._journal.begin(plan, self._plan.name))
        self._calls[plan.request_id] = call
        await self._make_trouble(call)
        await call.heard.wait()
        if plan.again is not None and not call.history.is_given_up:
            await self._ask_again(call)
        call.is_open = False
        if plan.is_acknowledged:
            await self._acknowledge(call)

    async def _make_trouble(self, call: MeanCall) -> None:
        plan = call.plan
        if plan.cut == "half_frame" and self._link is not None:
            self._journal.note(call.history, "sent half")
            self._link.say_half("call_tool", **fields_of(plan))
            return
        for _ in range(plan.copies):
            await self._send(call)
        self._journal.happened("sent")
        if plan.ask_after_s is not None:
            self._later(plan.ask_after_s, call, "get_result")
        if plan.cancel_after_s is not None:
            self._later(plan.cancel_after_s, call, "cancel_tool")
        if plan.cut in ("before_ack", "take_over"):
            self._tasks.create_task(self._cut(call))

    async def _send(self, call: MeanCall) -> None:
        await self._say(call, "call_tool", **fields_of(call.plan))

    async def _say(self, call: MeanCall, op: str, **fields: object) -> None:
        """Say something of a call, if there is a connection."""
        if self._link is None:
            return
        self._journal.note(call.history, f"said {op}")
        call.asked_count += 1
        try:
            await self._link.say(op, **fields)
        except LinkLost:
            self._journal.note(call.history, "which found no connection")

    def _later(self, delay_s: float, call: MeanCall, op: str) -> None:
        async def say() -> None:
            await asyncio.sleep(delay_s)
            if call.history.answers:
                return
            if op == "cancel_tool":
                call.history.is_cancelled = True
            await self._say(call, op, request_id=call.plan.request_id)

        self._tasks.create_task(say())

    async def _cut(self, call: MeanCall) -> None:
        await asyncio.sleep(call.plan.cut_after_s)
        if self._link is None:
            return
        self._journal.note(call.history, f"cut: {call.plan.cut}")
        if call.plan.cut == "take_over":
            with suppress(LinkLost):
                self._successor = await MeanLink.open(*self._greeting())
        else:
            self._link.cut()

    async def _ask_again(self, call: MeanCall) -> None:
        """Ask for an answer once more; where the connection is lost, it comes by itself."""
        call.heard.clear()
        plan = call.plan
        match plan.again:
            case "key":
                await self._call(same_by_key(plan))
            case "elsewhere":
                await self._ask_elsewhere(same_by_key(plan))
            case "call":
                await self._send(call)
                await call.heard.wait()
            case _:
                await self._say(call, "get_result", request_id=plan.request_id)
                await call.heard.wait()

    async def _ask_elsewhere(self, plan: CallPlan) -> None:
        """Ask for an answer by its key in a session of its own, of which nothing is to remain."""
        history = self._journal.begin(plan, self._plan.name)
        history.is_acknowledged = True
        while not history.answers:
            with suppress(LinkLost):
                link = await MeanLink.open(self._daemon.url, {"token": self._daemon.token})
                await link.say("call_tool", **fields_of(plan))
                while (frame := await link.hear())["op"] != "call_tool_res":
                    pass
                self._journal.note_answer(history, frame)
                await link.say("bye")
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_S))
        history.accepted_because = "answered"

    async def _acknowledge(self, call: MeanCall) -> None:
        """Erase an answer; whether the daemon heard that is not known."""
        call.history.is_acknowledged = True
        await self._say(call, "ack", request_ids=[call.plan.request_id])

    async def _settle_up(self) -> None:
        """Ask for every answer that was not acknowledged once more, then acknowledge all."""
        for call in self._calls.values():
            history = call.history
            if history.answers and not history.is_acknowledged:
                call.is_open = True
                call.heard.clear()
                if history.accepted_because in _STORED_BECAUSE:
                    await self._say(call, "get_result", request_id=history.request_id)
                else:
                    await self._send(call)
                await call.heard.wait()
                call.is_open = False
        for call in self._calls.values():
            call.history.is_acknowledged = True
        while not self._is_over.is_set():
            await self._is_back.wait()
            if self._link is not None:
                with suppress(LinkLost):
                    await self._link.say("ack", request_ids=list(self._calls))
                    await self._link.say("get_result", request_id=_LAST_WORD)
            with suppress(TimeoutError):
                async with asyncio.timeout(_LONGEST_PAUSE_S * 10):
                    await self._is_over.wait()

    async def _keep_connected(self) -> None:
        while True:
            link = self._successor or await self._open()
            self._successor = None
            self._link = link
            try:
                await self._resume(link)
                self._is_back.set()
                while True:
                    self._hear(await link.hear())
            except LinkLost:
                self._link = None
                self._is_back.clear()

    def _greeting(self) -> tuple[str, Frame]:
        hello: Frame = {"token": self._daemon.token, "acks": self._plan.acks}
        if self._session:
            hello["resume"] = {key: self._session[key] for key in ("session_id", "resume_token")}
        return self._daemon.url, hello

    async def _open(self) -> MeanLink:
        while True:
            try:
                return await MeanLink.open(*self._greeting())
            except LinkLost:
                await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_S))

    async def _resume(self, link: MeanLink) -> None:
        """Compare what the daemon knows with what it should, and send again what it does not."""
        before, self._session = self._session, link.ack
        pending = set(link.ack.get("pending", ()))
        if before and not link.ack.get("resumed"):
            self._journal.lost_sessions.append(self._plan.name)
        is_new_daemon = bool(before) and before["server"] != link.ack["server"]
        self._journal.happened("resumed")
        for call in list(self._calls.values()):
            history = call.history
            if history.request_id in pending:
                self._journal.note_accepted(history, "pending")
                call.asked_count += 1
                if history.is_acknowledged:  # which was not heard
                    await self._acknowledge(call)
            elif history.accepted_because in _STORED_BECAUSE and not history.is_acknowledged:
                history.missing = "not among what is pending after a resume"
            if not history.answers:
                call.back_at, call.is_after_restart = time.time(), is_new_daemon
            if call.is_open and history.request_id not in pending:
                await self._send_or_ask(call)

    async def _send_or_ask(self, call: MeanCall) -> None:
        if call.plan.sent_again or call.history.accepted_because:
            await self._send(call)
        else:
            await self._say(call, "get_result", request_id=call.plan.request_id)

    def _hear(self, frame: Frame) -> None:
        request_id = frame.get("request_id", "")
        if request_id == _LAST_WORD:
            self._is_over.set()
        call = self._calls.get(request_id)
        if call is None:
            return
        match frame["op"]:
            case "call_tool_ack":
                self._hear_ack(call)
            case "progress":
                self._journal.note_accepted(call.history, "progress")
            case "call_tool_res":
                call.asked_count -= 1
                call.history.unasked_count += call.asked_count < 0
                self._hear_answer(call, frame)

    def _hear_ack(self, call: MeanCall) -> None:
        is_first = not call.history.accepted_because
        self._journal.note_accepted(call.history, "acked")
        self._journal.happened("acked")
        if is_first and call.plan.cut == "after_ack":
            self._tasks.create_task(self._cut(call))

    def _hear_answer(self, call: MeanCall, frame: Frame) -> None:
        history = call.history
        answer = self._journal.note_answer(history, frame)
        if not answer.refused:
            if call.back_at is not None and len(history.answers) == 1:
                waited_s = answer.at - call.back_at
                self._journal.note_wait(history, waited_s, after_restart=call.is_after_restart)
            history.accepted_because = history.accepted_because or "answered"
            self._journal.happened("answered")
            call.heard.set()
        elif history.is_acknowledged:
            return
        elif answer.code != "RESULT_UNKNOWN":
            if not history.accepted_because:
                self._tasks.create_task(self._send_later(call))
        elif history.accepted_because in _STORED_BECAUSE:
            history.missing = f"its result is unknown: {answer.message}"
            call.heard.set()
        elif not call.plan.sent_again:
            history.is_given_up = True
            call.heard.set()

    async def _send_later(self, call: MeanCall) -> None:
        await asyncio.sleep(_REFUSED_PAUSE_S)
        if call.is_open and not call.history.accepted_because:
            await self._send(call)
