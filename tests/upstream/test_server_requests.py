"""What a server sends by itself reaches whoever wants it: notifications and requests."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from exai.core.client_side import AskFailed
from exai.core.clock import SystemClock
from exai.core.outcomes import text_of
from exai.processes.process_guard import ProcessGuard
from exai.upstream.handshake import Handshake
from exai.upstream.json_rpc import ServerLost
from exai.upstream.server_life import ServerLife
from exai.upstream.server_process import ServerProcess
from exai.upstream.speech import Speech
from tests.upstream.running_server import BOUND_S, SCRIPTED, Recorder, Run, until

MAX_BYTES = 1_000_000


class Hooks:
    """Keeps what the server says and asks, and answers as a test wants it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.cancelled_count = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.refusal: AskFailed | None = None

    def on_notification(self, method: str, params: dict[str, Any]) -> None:
        self.told.append((method, params))

    async def on_request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method, params))
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled_count += 1
            raise
        if self.refusal is not None:
            raise self.refusal
        return {"answer": len(self.asked)}


class Life:
    """A server's life, and the hooks it was given."""

    def __init__(self, life: ServerLife, hooks: Hooks) -> None:
        self.hooks = hooks
        self._life = life

    async def say(self, tool: str, /, **arguments: Any) -> str:
        params = {"name": tool, "arguments": arguments}
        result = await self._life.ask("tools/call", params, Run(), cancel_grace_s=0.0)
        return text_of(result["content"])

    async def ask(self, **arguments: Any) -> Any:
        return json.loads(await self.say("ask", method="sampling/createMessage", **arguments))


@asynccontextmanager
async def living() -> AsyncIterator[Life]:
    """Live one life of the scripted server, with hooks."""
    hooks, ready, over = Hooks(), asyncio.Event(), asyncio.Event()
    speech = Speech("srv", Recorder(), SystemClock())

    async def serve() -> None:
        await life.shake_hands(Handshake("1"), discover=False)
        ready.set()
        await over.wait()

    async with asyncio.timeout(BOUND_S), ProcessGuard() as guard, asyncio.TaskGroup() as tasks:
        process = await guard.spawn(sys.executable, ("-I", "-S", str(SCRIPTED)), env={})
        life = ServerLife(
            "srv",
            ServerProcess(process, speech, MAX_BYTES),
            speech,
            MAX_BYTES,
            on_notification=hooks.on_notification,
            on_request=hooks.on_request,
        )
        tasks.create_task(life.run(serve))
        await ready.wait()
        yield Life(life, hooks)
        over.set()


async def test_a_notification_arrives_with_its_params() -> None:
    async with living() as life:
        entry = {"level": "info", "data": [1]}
        await life.say("tell", method="notifications/message", params=entry)
        await life.say("tell", method="notifications/odd", params=[1])
        assert life.hooks.told == [("notifications/message", entry), ("notifications/odd", {})]


async def test_a_request_is_answered_with_what_the_hook_returns() -> None:
    async with living() as life:
        assert await life.ask(params={"x": 1}) == {"result": {"answer": 1}}
        assert life.hooks.asked == [("sampling/createMessage", {"x": 1})]


async def test_a_refusal_is_the_json_rpc_error() -> None:
    async with living() as life:
        life.hooks.refusal = AskFailed(-1, "the user said no", {"why": "tired"})
        error = {"code": -1, "message": "the user said no", "data": {"why": "tired"}}
        assert await life.ask() == {"error": error}
        life.hooks.refusal = AskFailed(-32601, "no sampling")
        assert await life.ask() == {"error": {"code": -32601, "message": "no sampling"}}


async def test_a_pulse_is_answered_without_the_hook() -> None:
    async with living() as life:
        assert json.loads(await life.say("ask", method="ping")) == {"result": {}}
        assert life.hooks.asked == []


async def test_a_request_that_the_server_takes_back_is_cancelled() -> None:
    async with living() as life, asyncio.TaskGroup() as tasks:
        life.hooks.may_answer.clear()
        asking = tasks.create_task(life.ask(id=7))
        await until(lambda: len(life.hooks.asked) == 1)
        for taken_back in ("7", 7):
            await life.say(
                "tell", method="notifications/cancelled", params={"requestId": taken_back}
            )
            assert life.hooks.cancelled_count == (taken_back == 7)
        life.hooks.may_answer.set()
        assert await life.ask(id=8) == {"result": {"answer": 2}}
        assert not asking.done()
        asking.cancel()


async def test_only_so_many_requests_are_answered_at_once() -> None:
    async with living() as life, asyncio.TaskGroup() as tasks:
        life.hooks.may_answer.clear()
        asking = [tasks.create_task(life.ask(id=n)) for n in range(16)]
        await until(lambda: len(life.hooks.asked) == 16)
        refused = await life.ask(id="one more")
        assert refused["error"]["message"] == "too many requests at once"
        life.hooks.may_answer.set()
        await asyncio.wait(asking)
        assert await life.ask(id="one more") == {"result": {"answer": 17}}


async def test_an_id_that_cannot_be_told_from_another_is_refused() -> None:
    async with living() as life, asyncio.TaskGroup() as tasks:
        life.hooks.may_answer.clear()
        asking = tasks.create_task(life.ask(id="twice"))
        await until(lambda: len(life.hooks.asked) == 1)
        for used in ("twice", None):
            assert (await life.ask(id=used))["error"]["code"] == -32600
        asking.cancel()


async def test_the_end_of_the_server_cancels_what_it_asked() -> None:
    async with living() as life:
        life.hooks.may_answer.clear()
        asking = asyncio.create_task(life.ask())
        await until(lambda: len(life.hooks.asked) == 1)
        with pytest.raises(ServerLost):
            await life.say("exit")
        assert life.hooks.cancelled_count == 1
        with pytest.raises(ServerLost):
            await asking
