"""Shared work and fair queues, over real sockets against a daemon in a process of its own.

    .venv/bin/python bench/sharing.py [--rounds 10]

Equal calls: 20 clients send 10 identical calls each of a tool that takes 200 ms. Fairness: a
quiet client's calls of a 20 ms tool that runs one at a time, alone and beside a client that
has 1,000 of them waiting; both are measured in turns. Prints medians over the rounds.
"""

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from exai.core.config import LimitsConfig, ProviderConfig, RatesConfig
from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun, provider_scope
from exai.testing.running_daemon import TOKEN, daemon_config, running_daemon
from exai.testing.scripted_tool import ScriptedTool

CLIENTS, CALLS_EACH, WORK_S = 20, 10, 0.2
WAITING, QUIET_CALLS, TURN_S = 1000, 40, 0.02
_NARROW = ProviderConfig(base_url="http://127.0.0.1:9/v1", max_inflight=1)


def serve(told: Connection) -> None:
    """Run the daemon until somebody speaks."""
    uvloop.run(_serve(told))


async def _serve(told: Connection) -> None:
    executions = 0

    async def work(arguments: dict[str, Any], run: ToolRun) -> Completed:
        nonlocal executions
        executions += 1
        await asyncio.sleep(arguments["work_s"])
        return Completed([text_block(str(executions))])

    limits = LimitsConfig(
        session_max_waiting=2 * WAITING,
        principal_max_waiting=3 * WAITING,
        global_max_waiting=4 * WAITING,
    )
    policy = SharingPolicy("principal", idempotent=True, read_only=True)
    with tempfile.TemporaryDirectory() as state_dir:
        config = daemon_config(
            Path(state_dir),
            limits=limits,
            rates=RatesConfig(principal_per_s=0),
            providers={"narrow": _NARROW},
        )
        tools = [
            ScriptedTool("shared", work, policy=policy),
            ScriptedTool("narrow", work, scope=provider_scope("narrow")),
        ]
        async with running_daemon(config, tools) as daemon:
            told.send(daemon.url)
            await asyncio.to_thread(told.recv)


async def hello(url: str, stack: AsyncExitStack) -> ClientConnection:
    """Open a session, which ends with the stack."""
    socket = await stack.enter_async_context(connect(url, compression=None, max_queue=None))
    await socket.send(json.dumps({"op": "hello", "token": TOKEN}))
    await socket.recv()
    stack.push_async_callback(socket.send, json.dumps({"op": "bye"}))
    return socket


async def call(socket: ClientConnection, name: str, request_id: str, **arguments: Any) -> None:
    """Send a call."""
    frame = {"op": "call_tool", "name": name, "request_id": request_id, "arguments": arguments}
    await socket.send(json.dumps(frame))


async def answer(socket: ClientConnection) -> dict[str, Any]:
    """Wait for the next terminal frame."""
    while True:
        frame: dict[str, Any] = json.loads(await socket.recv())
        if frame["op"] == "call_tool_res":
            assert frame["ok"], frame
            return frame


async def equal_calls_s(url: str, n: int) -> tuple[list[float], int]:
    """Return the time of each of the equal calls, and how many executions there were."""
    async with AsyncExitStack() as stack:
        sockets = [await hello(url, stack) for _ in range(CLIENTS)]
        begun_s: dict[tuple[ClientConnection, str], float] = {}
        for socket in sockets:
            for each in range(CALLS_EACH):
                begun_s[socket, f"r{each}"] = time.perf_counter()
                await call(socket, "shared", f"r{each}", work_s=WORK_S, n=n)
        took_s: list[float] = []
        texts: set[str] = set()

        async def hear(socket: ClientConnection) -> None:
            for _ in range(CALLS_EACH):
                frame = await answer(socket)
                took_s.append(time.perf_counter() - begun_s[socket, frame["request_id"]])
                texts.add(frame["text"])

        async with asyncio.TaskGroup() as tasks:
            for socket in sockets:
                tasks.create_task(hear(socket))
        return took_s, len(texts)


async def quiet_calls_s(url: str, waiting_count: int) -> list[float]:
    """Return the times of a quiet client's calls, one after the other."""
    async with AsyncExitStack() as stack:
        greedy, quiet = await hello(url, stack), await hello(url, stack)
        for n in range(waiting_count):
            await call(greedy, "narrow", f"r{n}", work_s=TURN_S)
        for _ in range(waiting_count):
            while json.loads(await greedy.recv())["op"] != "call_tool_ack":
                pass
        took_s = []
        for n in range(QUIET_CALLS):
            begun_s = time.perf_counter()
            await call(quiet, "narrow", f"q{n}", work_s=TURN_S)
            await answer(quiet)
            took_s.append(time.perf_counter() - begun_s)
        return took_s


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(values, n=20)[-1]


async def measure(url: str, rounds: int) -> None:
    """Measure and print."""
    p50s_s, executions = [], []
    for n in range(rounds):
        took_s, count = await equal_calls_s(url, n)
        p50s_s.append(statistics.median(took_s))
        executions.append(count)
    print(f"{CLIENTS * CALLS_EACH} equal calls of {WORK_S * 1000:g} ms, {rounds} rounds:")
    print(f"  executions a round: {max(executions)} at most")
    print(
        f"  p50: {statistics.median(p50s_s) * 1000:.1f} ms (worst round {max(p50s_s) * 1000:.1f})"
    )
    alone, beside = [], []
    for _ in range(rounds):
        alone.append(p95(await quiet_calls_s(url, 0)))
        beside.append(p95(await quiet_calls_s(url, WAITING)))
    ratios = [late / early for late, early in zip(beside, alone, strict=True)]
    print(f"a quiet client's calls of {TURN_S * 1000:g} ms, one at a time in all:")
    print(f"  p95 alone: {statistics.median(alone) * 1000:.1f} ms")
    print(f"  p95 beside {WAITING} waiting: {statistics.median(beside) * 1000:.1f} ms")
    print(f"  ratio: {statistics.median(ratios):.2f}")


def main() -> None:
    """Start the daemon, measure, stop it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    here, there = multiprocessing.Pipe()
    daemon = multiprocessing.get_context("spawn").Process(target=serve, args=(there,))
    daemon.start()
    try:
        asyncio.run(measure(here.recv(), arguments.rounds))
    finally:
        here.send("stop")
        daemon.join()


if __name__ == "__main__":
    main()
