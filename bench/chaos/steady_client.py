"""A client that uses the client library, over a line that breaks."""

import asyncio
import time

from bench.chaos.daemon_process import DaemonProcess
from bench.chaos.journal import Journal
from bench.chaos.plan import CallPlan, ClientPlan
from bench.chaos.record import CallHistory
from exai.client import Backoff, CallResult, ClientError, DaemonClient, Progress
from exai.client.answers import OnProgress
from exai.testing.fault_proxy import FaultProxy

_BACKOFF = Backoff(first_s=0.05, longest_s=0.2)
_PATIENCE_S = 120.0
_REFUSED_PAUSE_S = 0.2


class SteadyClient:
    """One session of the client library, and all that it calls, once it may `begin`."""

    def __init__(self, plan: ClientPlan, journal: Journal, daemon: DaemonProcess) -> None:
        self.is_open, self.begin, self.is_done = (asyncio.Event() for _ in range(3))
        self._plan = plan
        self._journal = journal
        self._daemon = daemon
        self._groups = iter(plan.calls)
        self._unanswered: dict[str, CallHistory] = {}
        self._back_at: dict[str, tuple[float, bool]] = {}
        self._instance: object = None

    async def run(self) -> None:
        """Make all calls, and stay until cancelled."""
        async with FaultProxy(self._daemon.port) as self._proxy:
            self._client = DaemonClient(
                f"ws://127.0.0.1:{self._proxy.port}/",
                token=self._daemon.token,
                backoff=_BACKOFF,
                patience_s=_PATIENCE_S,
                on_connection=self._note_connection,
            )
            async with self._client:
                self._instance = self._client.session.get("server")
                self.is_open.set()
                await self.begin.wait()
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(self._plan.outstanding):
                        tasks.create_task(self._work())
                self.is_done.set()
                await asyncio.Event().wait()

    def _note_connection(self, words: str) -> None:
        if words != "connected again":
            return
        instance = self._client.session.get("server")
        is_restart, self._instance = instance != self._instance, instance
        for request_id in self._unanswered:
            self._back_at[request_id] = time.time(), is_restart

    async def _work(self) -> None:
        for group in self._groups:
            for plan in group:
                await self._call(plan)

    async def _call(self, plan: CallPlan) -> None:
        history = self._journal.begin(plan, self._plan.name, is_of_library=True)
        self._unanswered[plan.request_id] = history
        async with asyncio.TaskGroup() as tasks:
            if plan.cut is not None:
                tasks.create_task(self._cut(plan, history))
            if plan.cancel_after_s is not None:
                tasks.create_task(self._cancel(plan.cancel_after_s, history))
            await self._await_answer(plan, history)

    async def _await_answer(self, plan: CallPlan, history: CallHistory) -> None:
        def note_progress(_: Progress) -> None:
            self._journal.note_accepted(history, "progress")

        self._journal.happened("sent")
        try:
            result = await self._call_tool(plan, note_progress)
            while not result.accepted:
                self._journal.note_answer(history, result.frame)
                await asyncio.sleep(_REFUSED_PAUSE_S)
                result = await self._call_tool(plan, note_progress)
        except ClientError as error:
            history.missing = f"{type(error).__name__}: {error}"
            return
        finally:
            del self._unanswered[plan.request_id]
        history.is_acknowledged = True
        history.accepted_because = history.accepted_because or "answered"
        answer = self._journal.note_answer(history, result.frame)
        self._journal.happened("answered")
        if plan.request_id in self._back_at:
            back_at, is_restart = self._back_at[plan.request_id]
            self._journal.note_wait(history, answer.at - back_at, after_restart=is_restart)

    async def _call_tool(self, plan: CallPlan, on_progress: OnProgress) -> CallResult:
        return await self._client.call(
            plan.name,
            plan.arguments,
            request_id=plan.request_id,
            idempotency_key=plan.key,
            on_progress=on_progress,
        )

    async def _cut(self, plan: CallPlan, history: CallHistory) -> None:
        await asyncio.sleep(plan.cut_after_s)
        self._journal.note(history, "cut")
        self._proxy.reset()

    async def _cancel(self, delay_s: float, history: CallHistory) -> None:
        await asyncio.sleep(delay_s)
        if history.request_id in self._unanswered:
            history.is_cancelled = True
            await self._client.cancel(history.request_id)
