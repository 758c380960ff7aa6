"""The image's smoke test: does the daemon of this container do what a daemon should?

    python /app/test_suite.py

Finds the daemon and its token as `exai call` does. Prints a line for each check, and ends within
half a minute, whatever happens: with 0 if all of them hold, else with 1.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from http.client import HTTPException
from typing import NamedTuple

import msgspec

from exai.cli.config_file import CommandLine, ConfigProblems, load_config
from exai.cli.daemon_door import Door, NoDoor, find_door, find_http_door
from exai.cli.daemon_health import ask_health
from exai.cli.daemon_http import NoAnswer, http_connection
from exai.client import CallResult, ClientError, DaemonClient, HelloRefused

LIMIT_S = 28.0
READY_WITHIN_S = 10.0
PATIENCE_S = 5.0
UNAUTHORIZED = 4003


class Doors(NamedTuple):
    """The two ports of the daemon."""

    websocket: Door
    http: Door


class Wrong(Exception):
    """The daemon answers, and not as it should."""


async def lives(doors: Doors) -> None:
    """The first check waits for a daemon that starts; the others need not."""
    await asyncio.to_thread(wait_for_ok, doors.http, "/livez")


async def is_ready(doors: Doors) -> None:
    await asyncio.to_thread(wait_for_ok, doors.http, "/readyz")


async def tells_a_stranger_little(doors: Doors) -> None:
    stranger = msgspec.structs.replace(doors.http, token=None)
    answer = await asyncio.to_thread(ask_health, stranger)
    expect(not answer.is_whole, f"a stranger is told {sorted(answer.report)}")


async def tells_its_health(doors: Doors) -> None:
    answer = await asyncio.to_thread(ask_health, doors.http)
    expect(answer.is_whole, "the token is refused")
    expect(answer.status == "ok", f"the status is {answer.status!r}")


async def refuses_a_wrong_token(doors: Doors) -> None:
    try:
        async with session(doors, token="not-the-token-of-this-daemon"):
            raise Wrong("a session was opened")
    except HelloRefused as refused:
        expect(refused.code == UNAUTHORIZED, f"it was closed with {refused}")


async def shakes_hands(doors: Doors) -> None:
    async with session(doors) as client:
        spoken = client.session.get("protocol")
        expect(spoken == "exai.v1", f"it speaks {spoken!r}")


async def lists_its_tools(doors: Doors) -> None:
    async with session(doors) as client:
        names = [tool["name"] for tool in await client.list_tools()]
    expect("echo" in names, f"it lists {names}")


async def runs_a_tool(doors: Doors) -> None:
    words = "through the container, ¡y de vuelta!"
    answer = await call(doors, "echo", {"text": words})
    expect(answer.ok and answer.text == words, f"it answers {answer.frame}")


async def refuses_an_unknown_tool(doors: Doors) -> None:
    expect_refusal(await call(doors, "no_such_tool", {}), "TOOL_NOT_FOUND")


async def refuses_bad_arguments(doors: Doors) -> None:
    expect_refusal(await call(doors, "echo", {"text": 5}), "VALIDATION_ERROR")


Check = Callable[[Doors], Awaitable[None]]

CHECKS: dict[str, Check] = {
    "/livez says that the daemon lives": lives,
    "/readyz says that it is ready": is_ready,
    "/health tells its status alone to a stranger": tells_a_stranger_little,
    "/health tells all to whoever has the token": tells_its_health,
    "a wrong token is refused": refuses_a_wrong_token,
    "the token opens a session": shakes_hands,
    "the tools are listed": lists_its_tools,
    "a tool runs and answers": runs_a_tool,
    "an unknown tool is refused": refuses_an_unknown_tool,
    "bad arguments are refused": refuses_bad_arguments,
}


def session(doors: Doors, *, token: str | None = None) -> DaemonClient:
    """Return a session that gives up when its connection is lost."""
    door = doors.websocket
    return DaemonClient(
        door.url,
        token=token or door.token,
        tls=door.tls_context(),
        client_name="smoke test",
        patience_s=0,
    )


async def call(doors: Doors, tool: str, arguments: dict[str, object]) -> CallResult:
    async with session(doors) as client:
        return await client.call(tool, arguments, timeout_s=PATIENCE_S)


def wait_for_ok(door: Door, path: str) -> None:
    """Ask until the answer is 200. Raises what was wrong the last time."""
    gives_up_at = time.monotonic() + READY_WITHIN_S
    while True:
        try:
            expect_ok(door, path)
        except (HTTPException, OSError, Wrong):
            if time.monotonic() > gives_up_at:
                raise
            time.sleep(0.1)
        else:
            return


def expect_ok(door: Door, path: str) -> None:
    connection = http_connection(door)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        words = answer.read(200).decode(errors="replace").strip()
    finally:
        connection.close()
    expect(answer.status == 200, f"it answers with {answer.status}: {words}")


def expect_refusal(answer: CallResult, code: str) -> None:
    is_refused = not answer.accepted and answer.error is not None and answer.error.code == code
    expect(is_refused, f"expected a refusal with {code}, and the answer is {answer.frame}")


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)


async def holds(sentence: str, check: Check, doors: Doors) -> bool:
    """Make one check, and print what came of it."""
    began_at = time.monotonic()
    try:
        async with asyncio.timeout(READY_WITHIN_S + PATIENCE_S):
            await check(doors)
    except TimeoutError:
        say(f"FAIL  {sentence}: no answer")
    except (Wrong, NoAnswer, NoDoor, ClientError, HTTPException, OSError) as fault:
        say(f"FAIL  {sentence}: {fault}")
    else:
        say(f"ok    {sentence} ({(time.monotonic() - began_at) * 1000:.0f} ms)")
        return True
    return False


async def hold_all(doors: Doors) -> bool:
    """Make all checks, one after the other; where nobody lives, the first one alone."""
    held = []
    for sentence, check in CHECKS.items():
        held.append(await holds(sentence, check, doors))
        if not held[0]:
            break
    say(f"{sum(held)} of {len(CHECKS)} checks hold")
    return sum(held) == len(CHECKS)


def say(line: str) -> None:
    print(line, flush=True)


def give_up(limit_s: float) -> None:
    say(f"FAIL  the checks did not end within {limit_s:g} s")
    os._exit(1)


def main(limit_s: float = LIMIT_S) -> int:
    """Find the daemon, and check it."""
    watchdog = threading.Timer(limit_s, give_up, [limit_s])
    watchdog.daemon = True
    watchdog.start()
    try:
        loaded = load_config(CommandLine(), for_client=True)
        doors = Doors(find_door(loaded, None, None), find_http_door(loaded, None, None))
    except (ConfigProblems, NoDoor) as fault:
        say(f"FAIL  no daemon can be looked for: {fault}")
        return 1
    say(f"checking the daemon at {doors.websocket.url}, {doors.http.url}")
    return 0 if asyncio.run(hold_all(doors)) else 1


if __name__ == "__main__":
    sys.exit(main())
