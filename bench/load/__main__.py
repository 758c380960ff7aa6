"""The load generator, in a process of its own: reads an order, writes figures.

    python -m bench.load <order.json >figures.json

Connects, calls for a window, and looks at the server's processor time and memory at both ends
of it. `bench` starts it; it is started on the core that it shall use.
"""

import asyncio
import gc
import sys
import time
from contextlib import AsyncExitStack
from typing import NamedTuple, Self

import msgspec
import uvloop

from bench.load.caller import Answer, Call, Caller
from bench.load.calling import CallingGroup
from bench.load.exai_caller import ExaiCaller
from bench.load.mcp_callers import HttpCaller, StdioCaller
from bench.load.mcp_websocket_caller import McpWebSocketCaller
from bench.process_tree import ProcessTree
from bench.runs import Address, Group, Load, LoadFigures, Order

_CONNECTING_AT_ONCE = 50
_PATIENCE_S = 30.0


def make_caller(address: Address, group: Group) -> Caller:
    """Return a caller that speaks as the server does."""
    if address.fds is not None:
        return StdioCaller(address.fds)
    url, token = address.url, address.token
    match address.language:
        case "exai":
            return ExaiCaller(url, token, acks=group.acks)
        case "mcp_websocket_modern" | "mcp_websocket_session" as language:
            is_modern = language == "mcp_websocket_modern"
            return McpWebSocketCaller(url, token, is_modern=is_modern)
        case language:
            return HttpCaller(url, token, is_modern=language == "mcp_modern")


async def open_all(callers: list[Caller], stack: AsyncExitStack) -> None:
    """Connect, a few at a time; all are closed with the stack."""
    for begin in range(0, len(callers), _CONNECTING_AT_ONCE):
        some = callers[begin : begin + _CONNECTING_AT_ONCE]
        async with asyncio.TaskGroup() as tasks:
            for caller in some:
                tasks.create_task(caller.open())
        for caller in some:
            stack.push_async_callback(caller.close)


async def ask(caller: Caller, tool: str) -> int:
    """Call a tool that answers with a number."""
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    caller.on_answer = answered.set_result
    caller.call(Call("asked", tool, "", 0.0, 0.0))
    async with asyncio.timeout(_PATIENCE_S):
        return int((await answered).text)


class Used(NamedTuple):
    """Time and processor time, of so long ago or for so long."""

    wall_s: float
    server_cpu_s: float
    children_cpu_s: float
    load_cpu_s: float

    @classmethod
    def so_far(cls, server: ProcessTree) -> Self:
        """Look at the clocks."""
        return cls(
            time.perf_counter(), server.cpu_s(), server.children_cpu_s(), time.process_time()
        )

    def since(self, earlier: "Used") -> "Used":
        """Return what was used in between."""
        return Used(*(now - then for now, then in zip(self, earlier, strict=True)))


async def bring(load: Load, address: Address) -> LoadFigures:
    """Bring the load, and return what was found."""
    server = ProcessTree(address.pid)
    start_bytes = server.resident_bytes()
    async with AsyncExitStack() as stack:
        callers = {
            group.name: [make_caller(address, group) for _ in range(group.callers)]
            for group in load.groups
        }
        for some in callers.values():
            await open_all(some, stack)
        server.forget_peak()
        connected_bytes = server.resident_bytes()
        groups = {group.name: CallingGroup(group, callers[group.name]) for group in load.groups}
        used = await call(load, list(groups.values()), server)
        peak_bytes = server.resident_bytes("VmHWM")
        await asyncio.sleep(load.settle_s)
        end_bytes = server.resident_bytes()
        first = callers[load.groups[0].name][0]
        executions = await ask(first, load.executions_tool) if load.executions_tool else 0
        return LoadFigures(
            window_s=used.wall_s,
            server_cpu_s=used.server_cpu_s,
            children_cpu_s=used.children_cpu_s,
            load_cpu_s=used.load_cpu_s,
            rss_start_bytes=start_bytes,
            rss_connected_bytes=connected_bytes,
            rss_peak_bytes=peak_bytes,
            rss_end_bytes=end_bytes,
            executions=executions,
            groups={name: group.figures(used.wall_s) for name, group in groups.items()},
        )


async def call(load: Load, groups: list[CallingGroup], server: ProcessTree) -> Used:
    """Have all groups call, and return what was used in the window."""
    gc.collect()
    gc.freeze()
    before = Used.so_far(server)
    until_s = before.wall_s + load.warm_up_s + load.duration_s
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(group.run(until_s)) for group in groups]
        if load.warm_up_s:
            await asyncio.sleep(load.warm_up_s)
            before = Used.so_far(server)
            for group in groups:
                group.begin_window()
        await wait_window(load, running, until_s)
        used = Used.so_far(server).since(before)
        for group in groups:
            group.end_window()
    for group in groups:
        await group.finish(_PATIENCE_S)
    return used


async def wait_window(load: Load, running: list[asyncio.Task[None]], until_s: float) -> None:
    """Wait for the window's end: a time, or the last of so many calls."""
    if any(group.calls_each for group in load.groups):
        async with asyncio.timeout(_PATIENCE_S):
            await asyncio.wait(running)
    else:
        await asyncio.sleep(until_s - time.perf_counter())


def main() -> None:
    """Do what the order says."""
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    figures = uvloop.run(bring(order.load, order.address))
    sys.stdout.buffer.write(msgspec.json.encode(figures))


if __name__ == "__main__":
    main()
