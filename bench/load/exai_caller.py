"""A connection that speaks `exai.v1`, on the core of `picows`: a few µs a call."""

import asyncio
import json

import msgspec
import picows

from bench.load.caller import Answer, Call, Caller, arguments_json

_TEXT = picows.WSMsgType.TEXT
_CLOSE = picows.WSMsgType.CLOSE


class _Error(msgspec.Struct, frozen=True):
    code: str


class _Arguments(msgspec.Struct, frozen=True):
    text: str


class _Frame(msgspec.Struct, frozen=True):
    """Any frame of the daemon; a raw echo sends back calls, whose text is in `arguments`."""

    op: str
    request_id: str | None = None
    ok: bool = True
    text: str = ""
    arguments: _Arguments | None = None
    error: _Error | str | None = None


_decode = msgspec.json.Decoder(_Frame).decode


class ExaiCaller(Caller, picows.WSListener):
    """One session."""

    def __init__(self, url: str, token: str, *, acks: bool) -> None:
        super().__init__()
        self._url = url
        self._hello = json.dumps({"op": "hello", "token": token, "acks": acks}).encode()
        self._acks = acks
        self._greeting: asyncio.Future[_Frame] = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect and say hello."""
        self._transport, _ = await picows.ws_connect(lambda: self, self._url)
        self._transport.send(_TEXT, self._hello)
        greeting = await self._greeting
        if not greeting.ok:
            raise ConnectionError(f"the daemon refuses the hello: {greeting}")

    def call(self, call: Call) -> None:
        """Send a call."""
        timeout = f',"timeout_s":{call.timeout_s}' if call.timeout_s else ""
        frame = (
            f'{{"op":"call_tool","request_id":"{call.request_id}","name":"{call.tool}",'
            f'"arguments":{arguments_json(call)}{timeout}}}'
        )
        self._transport.send(_TEXT, frame.encode())

    async def close(self) -> None:
        """End the session."""
        self._transport.send(_TEXT, b'{"op":"bye"}')
        self._transport.disconnect()

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take one frame."""
        if frame.msg_type is not _TEXT:
            if frame.msg_type is _CLOSE:
                transport.disconnect()
            return
        said = _decode(frame.get_payload_as_memoryview())
        if said.op == "call_tool_res" or said.op == "call_tool":
            self._take_answer(said)
        elif not self._greeting.done():
            self._greeting.set_result(said)

    def on_ws_disconnected(self, transport: picows.WSTransport) -> None:
        """Tell that the connection has ended."""
        self.on_lost()

    def _take_answer(self, said: _Frame) -> None:
        request_id = said.request_id or ""
        if self._acks and said.ok:
            frame = f'{{"op":"ack","request_ids":["{request_id}"]}}'
            self._transport.send(_TEXT, frame.encode())
        if said.ok:
            text = said.arguments.text if said.arguments else said.text
            self.on_answer(Answer(request_id, text))
        else:
            code = said.error.code if isinstance(said.error, _Error) else str(said.error)
            self.on_answer(Answer(request_id, "", code))
