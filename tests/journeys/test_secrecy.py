"""What a daemon writes down: who came, and when; never a token, nor what was said."""

import asyncio
import gc
import json
import os
import random
import re
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from exai.core.config import ProviderConfig, Secret
from exai.core.errors import ToolFailed
from exai.core.events import CallFailedInside, CallSettled, UpstreamStarted
from exai.core.outcomes import Completed, text_block
from exai.core.tool import ToolRun
from exai.observe.logs import configure_logging
from exai.stores.memory_conversations import MemoryConversationStore
from exai.stores.memory_sessions import MemorySessionStore
from exai.stores.memory_store import MemoryCallStore
from exai.stores.stores import Stores
from exai.testing import running_daemon as doubles
from exai.testing.raw_peer import TEXT, frame, raw_peer, request
from exai.testing.running_daemon import daemon_config, running_daemon
from exai.testing.scripted_provider import ScriptedProvider, answers, fails, streams_raw
from exai.testing.scripted_tool import ScriptedTool
from tests.journeys.wire import open_wire
from tests.upstream.running_server import scripted

MINUTES_A_DAY = 1440
SIGNS = "^~`|"
"""Tokens here are made of these; nothing else that is written down holds one of them."""

chance = random.Random(11)


def some_token() -> str:
    return "".join(chance.choices(SIGNS, k=32))


TOKEN = some_token()


class Served(NamedTuple):
    port: int
    http_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Run `exai serve` as it is run, with everything that it can write."""
    environment = {
        "HOME": str(tmp_path),
        "PATH": os.defpath,
        "EXAI_WS_TOKEN": TOKEN,
        "EXAI_WS_PORT": "0",
        "EXAI_SERVER_HTTP_PORT": "0",
        "EXAI_SERVER_LOG_LEVEL": "debug",
        "EXAI_RATES_FAILED_HELLOS_PER_MINUTE": "0",
        "EXAI_LOCAL_ENABLED": "false",
    }
    log = tmp_path / "log"
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "exai", "serve"), env=environment, stdout=PIPE, stderr=stderr
        )
    assert process.stdout is not None
    ready = (await process.stdout.readline()).decode()
    port, http_port = map(int, re.findall(r":(\d+)/", ready))
    try:
        yield Served(port, http_port, log)
    finally:
        process.terminate()
        await process.wait()


async def in_the_hello(served: Served) -> None:
    async with open_wire(served.url, greet=False, says_bye=False) as wire:
        assert (await wire.hello(token=some_token()))["error"] == "unauthorized"
        assert await wire.closed() == (4003, "unauthorized")


async def in_the_header(served: Served) -> None:
    headers = {"Authorization": f"Bearer {some_token()}"}
    async with open_wire(
        served.url, greet=False, says_bye=False, additional_headers=headers
    ) as wire:
        assert (await wire.hello())["error"] == "unauthorized"


async def in_two_places_that_differ(served: Served) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with open_wire(
        served.url, greet=False, says_bye=False, additional_headers=headers
    ) as wire:
        assert (await wire.hello(token=some_token()))["error"] == "unauthorized"


async def in_the_address(served: Served) -> None:
    async with raw_peer(served.port) as peer:
        assert (await peer.ask(request(f"/?token={some_token()}")))[0] == 101
    async with raw_peer(served.port) as peer:
        assert (await peer.ask(request(f"/{some_token()}")))[0] == 404


async def as_another_header(served: Served) -> None:
    for name in ("Origin", "Host", "Sec-WebSocket-Protocol"):
        async with raw_peer(served.port) as peer:
            assert (await peer.ask(request(**{name: some_token()})))[0] in (400, 403, 421)


async def as_no_hello_at_all(served: Served) -> None:
    hello = {"op": "hello", "token": some_token()}
    for message in (
        json.dumps(hello)[:-1],
        json.dumps(hello | {"token": [some_token()]}),
        json.dumps(hello | {"op": some_token()}),
        some_token(),
    ):
        async with raw_peer(served.port) as peer:
            await peer.upgrade()
            await peer.send(frame(TEXT, message.encode()))
            await peer.end()


async def at_the_http_port(served: Served) -> None:
    headers = {"authorization": f"Bearer {some_token()}", "upgrade": None, "connection": "close"}
    async with raw_peer(served.http_port) as peer:
        status, _, body = await peer.ask(request("/health", **headers))
        assert (status, json.loads(body)) == (200, {"status": "ok"})
    async with raw_peer(served.http_port) as peer:
        assert (await peer.ask(request(f"/{some_token()}", **headers)))[0] == 404


async def as_one_to_be_replaced(served: Served) -> None:
    async with open_wire(served.url, token=TOKEN) as wire:
        answer = await wire.ask(
            "rotate_token", "rotate_token_res", old=some_token(), new=some_token()
        )
        assert answer["error"] == "unauthorized"
        await wire.say(some_token(), request_id=some_token())
        assert (await wire.hear())["op"] == "error"
        resume = {"session_id": some_token(), "resume_token": some_token()}
    async with open_wire(served.url, greet=False) as wire:
        answer = await wire.hello(token=TOKEN, resume=resume)
        assert answer["resume_error"] == "unknown_session"


WAYS: tuple[Callable[[Served], Awaitable[None]], ...] = (
    in_the_hello,
    in_the_header,
    in_two_places_that_differ,
    in_the_address,
    as_another_header,
    as_no_hello_at_all,
    at_the_http_port,
    as_one_to_be_replaced,
)


@pytest.mark.slow
async def test_a_day_of_wrong_tokens_leaves_no_byte_of_one_in_the_log(served: Served) -> None:
    """One try a minute, in every way that there is, and everything is written that can be."""
    for minute in range(MINUTES_A_DAY):
        await WAYS[minute % len(WAYS)](served)
    async with open_wire(served.url, token=TOKEN) as wire:
        assert (await wire.call("echo", arguments={"text": "hi"}))["ok"]
    written = served.log.read_text("utf-8")
    assert written.count("connections.refused") > MINUTES_A_DAY / 2
    assert not set(SIGNS) & set(written)


# What is said to tools and by them

SECRET = "said-in-confidence"


async def raises(arguments: dict[str, object], run: ToolRun) -> Completed:
    raise ValueError(f"cannot read {arguments['text']}")


async def raises_elsewhere(arguments: dict[str, object], run: ToolRun) -> Completed:
    """Fail in a thread, on top of a failure, beside others."""
    try:
        await asyncio.to_thread(int, arguments["text"])  # type: ignore[arg-type]
    except ValueError as quoted:
        errors = [KeyError(arguments["text"]), OSError(2, arguments["text"], arguments["text"])]
        raise ExceptionGroup(f"quoted {arguments}", errors) from quoted
    raise AssertionError


async def refuses(arguments: dict[str, object], run: ToolRun) -> Completed:
    raise ToolFailed(f"no {arguments}", outputs=[text_block(str(arguments))])


async def answers_what_no_frame_can_hold(arguments: dict[str, object], run: ToolRun) -> Completed:
    return Completed([text_block(f"{arguments}\ud800")])


async def leaves_a_failure_behind(arguments: dict[str, object], run: ToolRun) -> Completed:
    loop = asyncio.get_running_loop()
    loop.create_task(raises(arguments, run))  # noqa: RUF006 - nobody ever asks for it
    loop.call_soon(int, str(arguments["text"]))
    await asyncio.sleep(0)
    return Completed([text_block(str(arguments))])


TOOLS = (
    raises,
    raises_elsewhere,
    refuses,
    answers_what_no_frame_can_hold,
    leaves_a_failure_behind,
)


class ForgetfulStore(MemoryCallStore):
    """Complains of every call that it is to settle, and of what is in it."""

    async def settle(self, *record: Any, **fields: Any) -> Any:
        if await super().settle(*record, **fields):
            raise RuntimeError(f"{record} {fields} {SECRET}")


async def test_nothing_that_is_said_to_a_tool_or_by_one_is_in_the_log(tmp_path: Path) -> None:
    """Not at the lowest level, and not where it ends in a defect."""
    log = tmp_path / "log"
    async with ScriptedProvider() as service:
        provider = ProviderConfig(base_url=service.base_url, api_key=Secret("k"), models=("m",))
        config = daemon_config(
            tmp_path, providers={"scripted": provider}, upstreams={"box": scripted()}
        )
        tools = [ScriptedTool(script.__name__, script) for script in TOOLS]
        stores = Stores(ForgetfulStore(), MemoryConversationStore(), MemorySessionStore())
        with log.open("w") as stream, configure_logging("debug", stream) as sink:
            async with running_daemon(config, tools, stores=stores) as daemon:
                async with open_wire(daemon.url, token=doubles.TOKEN) as wire:
                    await daemon.events.first_of(UpstreamStarted)
                    names = [tool.spec.name for tool in tools]
                    for n, name in enumerate([*names, "echo", "none", "box__echo", "box__line"]):
                        said = {"text": SECRET, "line": '{"id": ID, "result": "' + SECRET}
                        await wire.call(name, f"r{n}", arguments=said)
                    await wire.call("echo", "typed", arguments={"text": [SECRET]})
                    await wire.socket.send('{"op": "call_tool", "arguments": {"' + SECRET)
                    service.script_next(
                        answers(SECRET),
                        fails(400, message=SECRET),
                        fails(500, message=SECRET),
                        streams_raw(b"data: {" + SECRET.encode() + b"\n\n"),
                    )
                    for n in range(4):
                        prompt = {"prompt": f"{SECRET} {n}", "model": "m"}
                        await wire.call("chat", f"c{n}", arguments=prompt, timeout_s=2)
                for event in daemon.events.events:
                    sink.emit(event)
            gc.collect()
    defects = daemon.events.of(CallFailedInside)
    assert {defect.where for defect in defects} >= {"raises", "raises_elsewhere", "settling"}
    assert len(daemon.events.of(CallSettled)) >= 10
    written = log.read_text("utf-8")
    events = {json.loads(line)["event"] for line in written.splitlines()}
    assert events >= {"calls.accepted", "calls.settled", "calls.failed_inside", "library.asyncio"}
    assert SECRET not in written


async def test_a_line_about_a_defect_tells_whose_call_it_was(tmp_path: Path) -> None:
    tools = [ScriptedTool("raises", raises)]
    async with (
        running_daemon(daemon_config(tmp_path), tools) as daemon,
        open_wire(daemon.url, greet=False) as wire,
    ):
        ack = await wire.hello(token=doubles.TOKEN)
        answer = await wire.call("raises", "mine", arguments={"text": "x"})
    (defect,) = daemon.events.of(CallFailedInside)
    assert answer["error"]["details"]["error_id"] == defect.error_id
    assert defect.session_id == ack["session_id"]
    assert (defect.request_id, defect.call_id) == ("mine", answer["meta"]["call_id"])
