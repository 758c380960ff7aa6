"""A client that says and hears frames, and nothing more: what is on the wire is what is seen."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

Frame = dict[str, Any]
PATIENCE_S = 20.0


class Wire:
    """One WebSocket. Frames that are heard while another is looked for are kept in order."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._kept: list[Frame] = []

    async def say(self, op: str, **fields: object) -> None:
        await self.socket.send(json.dumps({"op": op, **fields}))

    async def hear(self) -> Frame:
        """Return the next frame."""
        if self._kept:
            return self._kept.pop(0)
        return await self._receive()

    async def hear_op(self, op: str, **fields: object) -> Frame:
        """Return the next frame with this op and these fields; keep the others."""
        for frame in self._kept:
            if _matches(frame, op, fields):
                self._kept.remove(frame)
                return frame
        while not _matches(frame := await self._receive(), op, fields):
            self._kept.append(frame)
        return frame

    async def ask(self, op: str, answer: str, **fields: object) -> Frame:
        await self.say(op, **fields)
        return await self.hear_op(answer)

    async def hello(self, **fields: object) -> Frame:
        return await self.ask("hello", "hello_ack", **fields)

    async def call(self, name: str, request_id: str = "r1", **fields: object) -> Frame:
        """Call a tool and return its terminal frame."""
        await self.say("call_tool", name=name, request_id=request_id, **fields)
        return await self.result(request_id)

    async def begin(self, name: str, request_id: str = "r1", **fields: object) -> None:
        """Call a tool, and wait for the acknowledgement."""
        await self.say("call_tool", name=name, request_id=request_id, **fields)
        await self.hear_op("call_tool_ack", request_id=request_id)

    async def result(self, request_id: str = "r1") -> Frame:
        return await self.hear_op("call_tool_res", request_id=request_id)

    async def closed(self) -> tuple[int | None, str | None]:
        """Wait for the close, and return its code and reason."""
        async with asyncio.timeout(PATIENCE_S):
            await self.socket.wait_closed()
        return self.socket.close_code, self.socket.close_reason

    async def _receive(self) -> Frame:
        async with asyncio.timeout(PATIENCE_S):
            frame = json.loads(await self.socket.recv())
        assert isinstance(frame, dict)
        return frame


def _matches(frame: Frame, op: str, fields: Mapping[str, object]) -> bool:
    return frame["op"] == op and all(frame.get(k) == v for k, v in fields.items())


@asynccontextmanager
async def open_wire(
    url: str,
    *,
    token: str | None = None,
    greet: bool = True,
    says_bye: bool = True,
    **options: Any,
) -> AsyncIterator[Wire]:
    """Connect and, unless told otherwise, say hello with `token`, and goodbye at the end."""
    async with connect(url, max_size=None, compression=None, **options) as socket:
        wire = Wire(socket)
        if greet:
            answer = await wire.hello(**({} if token is None else {"token": token}))
            assert answer["ok"], answer
        try:
            yield wire
        finally:
            if says_bye:
                with suppress(ConnectionClosed):
                    await wire.say("bye")
