"""What a well-behaved client notices of slow, silent, greedy and broken peers beside it.

    .venv/bin/python -m bench.peers [--rounds 5] [--library picows] [SCENARIO ...]

A daemon in a process of its own, the peers in another one (at nice 19: they shall cost what the
daemon spends on them, not the processor that the client needs), the client here. It makes an
`echo` call every 5 ms, due or not, and counts from when the call was due. Alone and beside the
peers take turns. Crowds of peers come and come back spread over a second, as a network brings
them: a thousand in one millisecond would be a measure of the kernel's queue. Prints for each
kind of peers: p50 and p99 over all rounds, the median of the rounds' ratios of p99, how busy the
daemon was, and how much its resident memory grew at its peak.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import resource
import statistics
import struct
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import uvloop
from websockets.asyncio.client import ClientConnection, connect

from bench.process_tree import ProcessTree
from exai.cli.serve_command import calm_collector
from exai.core.config import PrincipalConfig, Secret, ServerConfig
from exai.observe.logs import configure_logging
from exai.testing.raw_peer import CONTINUATION, PING, TEXT, RawPeer, frame, raw_peer, request, said
from exai.testing.running_daemon import TOKEN, daemon_config
from exai.transports.doors import DaemonAddress
from exai.ws_server import build_daemon

HOSTILE_TOKEN = "token-of-hostile-peers-0123456789"
CALLS, PACE_S, SETTLE_S, SPREAD_S, CROWD = 400, 0.005, 1.5, 0.5, 50
MIB = 2**20


class Ports(NamedTuple):
    """Where the daemon is."""

    websocket: int
    http: int


Peer = Callable[[Ports], Awaitable[None]]


def serve(told: Connection, library: str) -> None:
    """Run the daemon until somebody speaks."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    uvloop.run(_serve(told, library))


async def _serve(told: Connection, library: str) -> None:
    with tempfile.TemporaryDirectory() as state_dir, configure_logging("info") as events:
        config = daemon_config(
            Path(state_dir),
            server=ServerConfig(
                websocket_library=library,  # type: ignore[arg-type]
                max_connections=1500,
                ping_interval_s=1.0,
                ping_timeout_s=1.0,
                drain_s=0.0,
            ),
            principals={
                "default": PrincipalConfig(token=Secret(TOKEN)),
                "hostile": PrincipalConfig(token=Secret(HOSTILE_TOKEN)),
            },
        )
        daemon = build_daemon(config, environment={"PATH": os.defpath}, events=events)
        stop = asyncio.Event()

        def on_ready(address: DaemonAddress) -> None:
            calm_collector()
            ports = (urlsplit(url).port for url in (address.websocket_url, address.http_url))
            told.send((os.getpid(), Ports(*ports)))  # type: ignore[arg-type]

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(daemon.run(stop, on_ready))
            await asyncio.to_thread(told.recv)
            stop.set()


# --- the peers: each goes on until it is cancelled, and comes back when it is thrown out


async def say_nothing(ports: Ports) -> None:
    """Connect, and wait."""
    async with raw_peer(ports.websocket) as peer:
        await peer.end()


async def upgrade_slowly(ports: Ports) -> None:
    """Send an upgrade a byte at a time."""
    async with raw_peer(ports.websocket) as peer:
        await _trickle(peer, request())
        await peer.end()


async def upgrade_only(ports: Ports) -> None:
    """Upgrade, and wait."""
    async with raw_peer(ports.websocket) as peer:
        await peer.upgrade()
        await peer.end()


async def hello_slowly(ports: Ports) -> None:
    """Send a hello a byte at a time."""
    async with raw_peer(ports.websocket) as peer:
        await peer.upgrade()
        await _trickle(peer, said("hello", token="x" * 500))


async def announce_much(ports: Ports) -> None:
    """Announce 32 MiB before the hello, send as much as is read, stay for two seconds."""
    async with raw_peer(ports.websocket) as peer:
        await peer.upgrade()
        await peer.send(frame(TEXT, b"x" * MIB, announced_bytes=32 * MIB))
        await asyncio.sleep(2.0)


async def fail_hello(ports: Ports) -> None:
    """Say a hello of 64 KiB with a wrong token."""
    async with raw_peer(ports.websocket) as peer:
        await peer.upgrade()
        await peer.send(said("hello", token="wrong", padding="x" * 65_000))
        await peer.end()


async def connect_only(ports: Ports) -> None:
    """Connect, and leave."""
    async with raw_peer(ports.websocket):
        pass


async def offer_deflate(ports: Ports) -> None:
    """Send a frame that claims to be compressed."""
    async with raw_peer(ports.websocket) as peer:
        await peer.ask(request(sec_websocket_extensions="permessage-deflate"))
        await peer.send(frame(TEXT, b"x" * 1000, rsv=4))
        await peer.end()


async def send_slowly(ports: Ports) -> None:
    """Send a large frame a byte at a time; the pongs are part of it and never come."""
    async with raw_peer(ports.websocket) as peer:
        await peer.hello(token=HOSTILE_TOKEN)
        await _trickle(peer, frame(TEXT, b"x" * 100_000, announced_bytes=32 * MIB))


async def answer_no_pings(ports: Ports) -> None:
    """Open a session, and be deaf."""
    async with raw_peer(ports.websocket) as peer:
        await peer.hello(token=HOSTILE_TOKEN)
        await peer.end()


async def read_nothing(ports: Ports) -> None:
    """Ask for much, at 2 MB/s, and read nothing."""
    async with raw_peer(ports.websocket) as peer:
        await peer.hello(token=HOSTILE_TOKEN)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        while True:
            await peer.send(said("call_tool", name="echo", arguments={"text": "x" * 200_000}))
            await asyncio.sleep(0.1)


async def _flood(ports: Ports, some: bytes, *, begin: bytes = b"", reads: bool = True) -> None:
    async with raw_peer(ports.websocket) as peer, asyncio.TaskGroup() as tasks:
        await peer.hello(token=HOSTILE_TOKEN)
        if reads:
            tasks.create_task(peer.end())
        await peer.send(begin)
        while True:
            await peer.send(some)
            await asyncio.sleep(0)


async def flood_pings(ports: Ports) -> None:
    """Send pings."""
    await _flood(ports, frame(PING) * 5000)


async def flood_pings_unread(ports: Ports) -> None:
    """Send large pings, and read no pong."""
    await _flood(ports, frame(PING, b"x" * 125) * 500, reads=False)


async def flood_fragments(ports: Ports) -> None:
    """Send fragments without end, and without content."""
    await _flood(ports, frame(CONTINUATION, fin=False) * 5000, begin=frame(TEXT, fin=False))


async def flood_empties(ports: Ports) -> None:
    """Send empty messages."""
    await _flood(ports, frame(TEXT) * 5000)


async def flood_calls(ports: Ports) -> None:
    """Send calls over the rate."""
    await _flood(ports, said("call_tool", name="echo", arguments={"text": "x"}) * 500)


async def flood_questions(ports: Ports) -> None:
    """Send questions over the rate."""
    await _flood(ports, said("get_result", request_id="r1") * 500)


async def keep_alive(ports: Ports) -> None:
    """Ask the HTTP port once, and wait."""
    async with raw_peer(ports.http) as peer:
        await peer.ask(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await peer.end()


async def ask_slowly(ports: Ports) -> None:
    """Ask the HTTP port a byte at a time."""
    async with raw_peer(ports.http) as peer:
        await _trickle(peer, b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")


async def endless_headers(ports: Ports) -> None:
    """Send headers to the HTTP port, without end."""
    async with raw_peer(ports.http) as peer:
        await peer.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n")
        while True:
            await peer.send(b"X: " + b"y" * 4000 + b"\r\n")


async def endless_body(ports: Ports) -> None:
    """Send a body to the HTTP port, without end."""
    async with raw_peer(ports.http) as peer:
        await peer.send(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n")
        await peer.send(b"\r\n")
        while True:
            await peer.send(b"x" * 65_536)


async def _trickle(peer: RawPeer, text: bytes) -> None:
    for n in range(len(text)):
        await peer.send(text[n : n + 1])
        await asyncio.sleep(0.1)


SCENARIOS: dict[Peer, int] = {
    say_nothing: 500,
    upgrade_slowly: 200,
    upgrade_only: 500,
    hello_slowly: 200,
    announce_much: 1000,
    fail_hello: 5,
    connect_only: 5,
    offer_deflate: 5,
    send_slowly: 100,
    answer_no_pings: 200,
    read_nothing: 5,
    flood_pings: 1,
    flood_pings_unread: 1,
    flood_fragments: 1,
    flood_empties: 1,
    flood_calls: 1,
    flood_questions: 1,
    keep_alive: 500,
    ask_slowly: 200,
    endless_headers: 5,
    endless_body: 5,
}


def attack(told: Connection, ports: Ports) -> None:
    """Play the peers that are named, until an empty name."""
    os.nice(19)
    uvloop.run(_attack(told, ports))


async def _attack(told: Connection, ports: Ports) -> None:
    peers = {peer.__name__: peer for peer in SCENARIOS}
    while name := await asyncio.to_thread(told.recv):
        peer = peers[name]
        spread_s = SPREAD_S if SCENARIOS[peer] > CROWD else 0.01
        async with asyncio.TaskGroup() as tasks:
            playing = [
                tasks.create_task(_again_and_again(peer, ports, spread_s))
                for _ in range(SCENARIOS[peer])
            ]
            await asyncio.to_thread(told.recv)
            for task in playing:
                task.cancel()
        told.send("over")


async def _again_and_again(peer: Peer, ports: Ports, spread_s: float) -> None:
    while True:
        await asyncio.sleep(2 * spread_s * random.random())
        with suppress(OSError, EOFError, AssertionError, struct.error, ExceptionGroup):
            await peer(ports)


# --- the client


class Round(NamedTuple):
    """What one round brought."""

    took_s: list[float]
    cpu_s: float
    grown_bytes: int


async def measure_round(socket: ClientConnection, daemon: ProcessTree) -> Round:
    """Make calls at a fixed pace, and return how late each answer was."""
    due_s: dict[str, float] = {}
    took_s: list[float] = []

    async def hear() -> None:
        while len(took_s) < CALLS:
            told = json.loads(await socket.recv())
            if told["op"] == "call_tool_res":
                assert told["ok"], told
                took_s.append(time.perf_counter() - due_s[told["request_id"]])

    cpu_s = daemon.cpu_s()
    begun_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(hear())
        for n in range(CALLS):
            request_id = os.urandom(8).hex()
            due_s[request_id] = begun_s + n * PACE_S
            await asyncio.sleep(due_s[request_id] - time.perf_counter())
            call = {"name": "echo", "request_id": request_id, "arguments": {"text": request_id}}
            await socket.send(json.dumps({"op": "call_tool", **call}))
    return Round(took_s, (daemon.cpu_s() - cpu_s) / (time.perf_counter() - begun_s), 0)


def p99(values: list[float]) -> float:
    """Return the 99th percentile."""
    return statistics.quantiles(values, n=100)[-1]


async def measure(
    library: str, names: list[str], rounds: int, pid: int, ports: Ports, hostile: Connection
) -> None:
    """Measure and print."""
    daemon = ProcessTree(pid)
    async with AsyncExitStack() as stack:
        url = f"ws://127.0.0.1:{ports.websocket}/"
        socket = await stack.enter_async_context(connect(url, compression=None, max_queue=None))
        await socket.send(json.dumps({"op": "hello", "token": TOKEN}))
        await socket.recv()
        stack.push_async_callback(socket.send, json.dumps({"op": "bye"}))
        await measure_round(socket, daemon)  # warms up
        for name in names:
            alone, beside = [], []
            for _ in range(rounds):
                alone.append(await measure_round(socket, daemon))
                daemon.forget_peak()
                before_bytes = daemon.resident_bytes()
                hostile.send(name)
                await asyncio.sleep(SETTLE_S)
                now = await measure_round(socket, daemon)
                grown_bytes = daemon.resident_bytes("VmHWM") - before_bytes
                beside.append(now._replace(grown_bytes=grown_bytes))
                hostile.send("enough")
                await asyncio.to_thread(hostile.recv)
                await asyncio.sleep(SETTLE_S)
            show(library, name, alone, beside)


def show(library: str, name: str, alone: list[Round], beside: list[Round]) -> None:
    """Print one line of the table."""
    figures = []
    for side in (alone, beside):
        took_ms = [took * 1000 for each in side for took in each.took_s]
        figures += [statistics.median(took_ms), p99(took_ms)]
    ratios = [p99(b.took_s) / p99(a.took_s) for a, b in zip(alone, beside, strict=True)]
    figures += [statistics.median(ratios), 100 * statistics.median(each.cpu_s for each in beside)]
    grown_mib = max(each.grown_bytes for each in beside) / MIB
    print(
        f"{library:<11}{name:<20}"
        + "{:>7.2f}{:>8.2f}{:>9.2f}{:>8.2f}{:>8.2f}{:>7.0f}%".format(*figures)
        + f"{grown_mib:>8.1f}",
        flush=True,
    )


def main() -> None:
    """Start the daemon and the peers, measure, stop them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--library", choices=["picows", "websockets"], action="append")
    known = [peer.__name__ for peer in SCENARIOS]
    parser.add_argument("scenarios", nargs="*", choices=[[], *known], metavar="SCENARIO")
    arguments = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print(f"{'':<31}{'alone, ms':^15}{'beside, ms':^19}{'ratio':>6}{'daemon':>8}{'grown':>8}")
    print(f"{'':<31}{'p50':>7}{'p99':>8}{'p50':>9}{'p99':>8}{'of p99':>8}{'CPU':>8}{'MiB':>8}")
    context = multiprocessing.get_context("spawn")
    for library in arguments.library or ["picows", "websockets"]:
        daemon_end, there = multiprocessing.Pipe()
        daemon = context.Process(target=serve, args=(there, library))
        daemon.start()
        pid, ports = daemon_end.recv()
        hostile_end, there = multiprocessing.Pipe()
        hostile = context.Process(target=attack, args=(there, ports))
        hostile.start()
        names = arguments.scenarios or known
        try:
            asyncio.run(measure(library, names, arguments.rounds, pid, ports, hostile_end))
        finally:
            hostile_end.send("")
            daemon_end.send("stop")
            hostile.join()
            daemon.join()


if __name__ == "__main__":
    main()
