"""A daemon that is told nonsense over real sockets, and looked after while it is."""

import asyncio
import json
import os
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import httpx2

from exai.core.channel import MAX_FIRST_MESSAGE_BYTES
from exai.core.config import LimitsConfig, RatesConfig, ServerConfig
from exai.core.errors import ToolFailed
from exai.core.events import CallFailedInside
from exai.core.outcomes import Completed, text_block
from exai.core.tool import SharingPolicy, ToolRun
from exai.testing.raw_peer import CLOSE, CONTINUATION, PING, TEXT, RawPeer, frame, raw_peer
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import ScriptedTool
from tests.fuzz.frame_oracle import parse, reading_of_hello, readings
from tests.fuzz.tally import Frame, Tally
from tests.fuzz.websocket_frames import Piece, is_open, judge
from tests.processes.process_tree import descendants_of, open_file_count, until

PATIENCE_S = 20.0
MAX_MESSAGE_BYTES = 300_000
READ_ONLY = SharingPolicy("principal", 60.0, idempotent=True, read_only=True)
SESSION_TAKEN_OVER = 4004
MESSAGE_TOO_BIG = 1009
CLOSE_CODES = {"invalid_hello": 4000, "missing_hello": 4001, "unauthorized": 4003}


class FuzzedDaemon:
    """The daemon, and what is known of it from outside."""

    def __init__(self) -> None:
        self.running: RunningDaemon
        self.gate = asyncio.Event()
        self.has_failed = False
        self.token: str | None = TOKEN
        self._new_tokens: list[str | None] = []
        self._numbers = count(1)

    @property
    def port(self) -> int:
        return int(self.running.url.rsplit(":", 1)[1].strip("/"))

    def tools(self) -> list[ScriptedTool]:
        return [
            ScriptedTool("fast", self._fast),
            ScriptedTool("slow", self._slow),
            ScriptedTool("stubborn", self._stubborn),
            ScriptedTool("shared", self._slow, policy=READ_ONLY),
            ScriptedTool("fail", self._fail),
        ]

    async def greet(self, peer: RawPeer, **fields: object) -> Frame:
        """Upgrade and say hello."""
        await peer.upgrade()
        hello = {"op": "hello", "token": self.token, **fields}
        await peer.send(frame(TEXT, json.dumps(hello).encode()))
        ack: Frame = json.loads((await peer.receive())[1])
        assert ack["op"] == "hello_ack"
        return ack

    async def find_token(self) -> None:
        """Find out which token holds, after one may have replaced another."""
        for token in [*self._new_tokens, self.token]:
            self.token = token
            async with raw_peer(self.port) as peer:
                if (await self.greet(peer))["ok"]:
                    await self.say_bye(peer)
                    self._new_tokens = []
                    return
        raise AssertionError("no token is valid any more")

    async def say_bye(self, peer: RawPeer, tally: Tally | None = None) -> None:
        """End a session, and see that nothing more is said on it than is expected."""
        await peer.send(frame(TEXT, b'{"op":"bye"}'))
        assert await self.hear_close(peer, tally or Tally()) == 1000

    async def hear(self, peer: RawPeer, tally: Tally, is_enough: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not is_enough():
                    opcode, payload = await peer.receive()
                    if opcode == TEXT:
                        tally.hear(payload)
                    assert opcode != CLOSE, payload
        except TimeoutError:
            raise AssertionError(f"no answer: {tally.missing()}") from None

    async def hear_close(self, peer: RawPeer, tally: Tally) -> int:
        """Hear what comes before the close frame, and return its code."""
        async with asyncio.timeout(PATIENCE_S):
            while (received := await peer.receive())[0] != CLOSE:
                if received[0] == TEXT:
                    tally.hear(received[1])
        return int.from_bytes(received[1][:2]) if received[1] else 1005

    async def mark(self, peer: RawPeer, tally: Tally) -> None:
        """Have everything answered that is answered at once."""
        mark = f"mark-{next(self._numbers)}"
        health = json.dumps({"op": "health", "request_id": mark}).encode()
        tally.expect(readings(health))
        await peer.send(frame(TEXT, health))
        await self.hear(peer, tally, lambda: tally.heard["health_res", mark, ""] > 0)

    async def converse(self, texts: list[str], ending: "Ending", *, acks: bool) -> int:
        """Say all this on a session of its own, end it so, and check what was answered.

        Returns how many of the frames were sent.
        """
        self.gate, tally = asyncio.Event(), Tally()
        number = next(self._numbers)
        async with raw_peer(self.port) as peer:
            session = await self.greet(peer, acks=acks)
            wire = []
            for n, text in enumerate(texts):
                said = self.fill_in(text, f"{number}.{n}", f"{number}.{n - 1}").encode()
                expected = readings(said)
                if any(each.kind == "bye" for each in expected):
                    continue  # this is for the end
                if any(each.kind == "rotate_token_res" for each in expected):
                    if len(expected) > 1:
                        continue  # nobody would know which token holds
                    self._new_tokens.append(parse(said).get("new"))
                tally.expect(expected)
                wire.append(in_fragments(said) if n % 7 == 3 else frame(TEXT, said))
            await peer.send(*wire)
            await self.mark(peer, tally)
            await self.hear(peer, tally, tally.has_all_but_results)
            if self._new_tokens:
                await self.find_token()
            if ending.is_gentle:
                self.gate.set()
                await self.hear(peer, tally, tally.is_complete)
                await self.mark(peer, tally)
                await ending.end(self, peer, tally)
            else:
                await self.end_roughly(peer, tally, session, ending)
        tally.check()
        return len(wire)

    async def end_roughly(
        self, peer: RawPeer, tally: Tally, session: Frame, ending: "Ending"
    ) -> None:
        """Lose the connection while calls run, come back, and have all answers."""
        await ending.end(self, peer, tally)
        async with raw_peer(self.port) as again:
            ack = await self.resume(again, session)
            if ending.is_takeover:
                assert await self.hear_close(peer, tally) == SESSION_TAKEN_OVER
            tally.cut(ack["pending"])
            self.gate.set()
            await self.hear(again, tally, tally.is_complete)
            await self.say_bye(again, tally)

    async def resume(self, peer: RawPeer, session: Frame) -> Frame:
        """Take a session over that was opened with this `hello_ack`."""
        wanted = {field: session[field] for field in ("session_id", "resume_token")}
        ack = await self.greet(peer, resume=wanted)
        assert ack["resumed"], ack
        return ack

    async def knock(self, texts: list[str]) -> None:
        """Say each of this as the first words of a connection of its own."""
        async with raw_peer(self.port) as peer:
            kept = await self.greet(peer)
        known = {"@session": kept["session_id"], "@resume": kept["resume_token"]}
        for text in texts:
            said = self.fill_in(text, "id", "last", **known).encode()
            async with raw_peer(self.port) as peer:
                await peer.upgrade()
                await peer.send(frame(TEXT, said))
                async with asyncio.timeout(PATIENCE_S):
                    await self._check_verdict(peer, said, kept)
        async with raw_peer(self.port) as peer:
            await self.resume(peer, kept)
            await self.say_bye(peer)

    async def _check_verdict(self, peer: RawPeer, said: bytes, kept: Frame) -> None:
        if len(said) > MAX_FIRST_MESSAGE_BYTES:
            assert await peer.close_code() == MESSAGE_TOO_BIG
            return
        words, message = reading_of_hello(said, self.token)
        ack = json.loads((await peer.receive())[1])
        word = "ok" if ack["ok"] else ack["error"]
        assert word in words, (said, ack)
        if word != "ok":
            assert ack == {"op": "hello_ack", "ok": False, "error": word}
            assert await peer.close_code() == CLOSE_CODES[word]
            return
        wanted = message.get("resume")
        fields = wanted if isinstance(wanted, dict) else {}
        is_his = all(fields.get(f) == kept[f] for f in ("session_id", "resume_token"))
        assert ack["resumed"] == is_his, (said, ack)
        has_failed = wanted is not None and not is_his
        assert ack.get("resume_error") == ("unknown_session" if has_failed else None), (said, ack)
        if not is_his:
            await self.say_bye(peer)

    async def send_pieces(self, pieces: list[Piece], *, greets: bool) -> None:
        """Send WebSocket frames, behind a hello or as the first there are."""
        if is_open(pieces):
            pieces = [*pieces, Piece(CONTINUATION)]
        messages, codes = judge(pieces)
        tally, session = Tally(), None
        async with raw_peer(self.port) as peer:
            if greets:
                session = await self.greet(peer)
            else:
                await peer.upgrade()
                if messages and len(messages[0]) > MAX_FIRST_MESSAGE_BYTES:
                    codes = codes | {MESSAGE_TOO_BIG}
                elif messages:
                    [word] = reading_of_hello(messages[0], self.token)[0]
                    codes = codes | {CLOSE_CODES[word]}
            for message in messages:
                tally.expect(readings(message))
            await peer.send(*(piece.encode() for piece in pieces))
            if codes:
                code = await self.hear_close(peer, tally)
                assert code in codes, (code, codes, pieces)
            elif greets:
                await self.mark(peer, tally)
                await self.say_bye(peer, tally)
                tally.check()
            else:
                await peer.send(
                    frame(TEXT, json.dumps({"op": "hello", "token": self.token}).encode())
                )
                await self.hear(peer, tally, lambda: tally.heard["hello_ack", None, ""] > 0)
                await self.say_bye(peer, tally)
        assert not tally.heard - tally.most - Counter({("hello_ack", None, ""): 1}), pieces
        if codes and session is not None:
            async with raw_peer(self.port) as peer:
                await self.resume(peer, session)
                await self.say_bye(peer)

    def fill_in(self, text: str, own_id: str, last_id: str, **session: str) -> str:
        """Put in what was not known when the frame was drawn."""
        known = {"@id": own_id, "@last": last_id, "@token": self.token or "", **session}
        for word, meant in known.items():
            text = text.replace(word, meant)
        return text

    async def health(self) -> dict[str, Any]:
        """Return what the HTTP port tells, which needs no session."""
        headers = {"authorization": f"Bearer {self.token}"}
        async with httpx2.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"{self.running.address.http_url}health", headers=headers)
        health: dict[str, Any] = answer.json()
        return health

    async def is_at_rest(self) -> bool:
        """Tell whether no session is there, and nothing runs or waits."""
        health = await self.health()
        return not (
            health["sessions"]
            or health["detached_sessions"]
            or health["global_inflight"]
            or any(health["waiting_count"].values())
            or any(pool["in_use"] for pool in health["pools"])
        )

    async def _fast(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        return Completed([text_block("done")])

    async def _slow(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        await self.gate.wait()
        return Completed([text_block("done at last")])

    async def _stubborn(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        gate = self.gate
        try:
            await gate.wait()
        except asyncio.CancelledError:
            await gate.wait()
            raise
        return Completed([text_block("done at last")])

    async def _fail(self, arguments: dict[str, Any], run: ToolRun) -> Completed:
        raise ToolFailed("no")


class Ending:
    """How a connection ends: gently, with the session; or roughly, and the session is resumed."""

    is_gentle = False
    is_takeover = False

    async def end(self, daemon: FuzzedDaemon, peer: RawPeer, tally: Tally) -> None:
        """End the connection."""


class Bye(Ending):
    is_gentle = True

    async def end(self, daemon: FuzzedDaemon, peer: RawPeer, tally: Tally) -> None:
        await daemon.say_bye(peer, tally)


class Drop(Ending):
    async def end(self, daemon: FuzzedDaemon, peer: RawPeer, tally: Tally) -> None:
        peer.writer.transport.abort()


class TakeOver(Ending):
    is_takeover = True


class Violation(Ending):
    """Bytes that the daemon answers with one of these close codes."""

    def __init__(self, sent: bytes, *codes: int) -> None:
        self.sent = sent
        self.codes = codes

    async def end(self, daemon: FuzzedDaemon, peer: RawPeer, tally: Tally) -> None:
        await peer.send(self.sent)
        assert await daemon.hear_close(peer, tally) in self.codes


def in_fragments(message: bytes) -> bytes:
    """Return a text message in three pieces, with a ping between any two."""
    third = len(message) // 3
    return (
        frame(TEXT, message[:third], fin=False)
        + frame(PING, b"a")
        + frame(CONTINUATION, message[third : 2 * third], fin=False)
        + frame(PING)
        + frame(CONTINUATION, message[2 * third :])
    )


@asynccontextmanager
async def fuzzed_daemon(state_dir: Path, library: str) -> AsyncIterator[FuzzedDaemon]:
    """Run a daemon, and see at the end that nothing of what was said is left in it."""
    fuzzed = FuzzedDaemon()
    config = daemon_config(
        state_dir,
        server=ServerConfig(
            websocket_library=library,  # type: ignore[arg-type]
            max_message_bytes=MAX_MESSAGE_BYTES,
            drain_s=1.0,
        ),
        rates=RatesConfig(principal_per_s=0, failed_hellos_per_minute=0),
        limits=LimitsConfig(session_max_waiting=400),
    )
    async with running_daemon(config, fuzzed.tools()) as fuzzed.running:
        for _ in range(2):  # whatever is made once has been made
            await fuzzed.converse(['{"op":"call_tool","name":"fast"}'], Bye(), acks=False)
            assert await fuzzed.health()
        files, children = open_file_count(os.getpid()), descendants_of(os.getpid())
        tasks = len(asyncio.all_tasks())
        try:
            yield fuzzed
        finally:
            fuzzed.gate.set()
        if fuzzed.has_failed:
            return
        async with asyncio.timeout(PATIENCE_S):
            while not await fuzzed.is_at_rest():
                pass
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: open_file_count(os.getpid()) <= files)
        assert descendants_of(os.getpid()) == children
    defects = fuzzed.running.events.of(CallFailedInside)
    assert not defects, [traceback.format_exception(each.exception) for each in defects[:3]]
