"""A small MCP server on its standard streams, without an SDK: what a daemon stands in front of.

    python bench/servers/stdio_tools.py

`echo` says back its text at once; `work` does so after `work_s`, any number at the same time;
`executions` says how often `work` was begun. Answers what it has read in one write.
"""

import asyncio
import json
import os
from typing import Any

_READ_BYTES = 262_144
_TEXT = {"text": {"type": "string"}}
_TOOLS = [
    {
        "name": name,
        "description": f"{name} of the bench",
        "inputSchema": {"type": "object", "properties": properties},
        "annotations": {"readOnlyHint": True},
    }
    for name, properties in {
        "echo": _TEXT,
        "work": {**_TEXT, "work_s": {"type": "number"}},
        "executions": {},
    }.items()
]


class StdioServer:
    """Reads lines, and answers each when its time has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._unread = b""
        self._unsaid: list[bytes] = []
        self._working: dict[Any, asyncio.TimerHandle] = {}
        self._executions = 0
        loop.add_reader(0, self._read)

    def _read(self) -> None:
        chunk = os.read(0, _READ_BYTES)
        if not chunk:
            self._loop.stop()
            return
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            self._take(json.loads(line))
        self._write()

    def _take(self, message: dict[str, Any]) -> None:
        params, request_id = message.get("params", {}), message.get("id")
        match message["method"]:
            case "tools/call":
                self._call(request_id, params["name"], params.get("arguments", {}))
            case "tools/list":
                self._say(request_id, result={"tools": _TOOLS})
            case "initialize":
                self._say(
                    request_id,
                    result={
                        "protocolVersion": params["protocolVersion"],
                        "capabilities": {"tools": {}},
                        "serverInfo": {"name": "bench", "version": "1"},
                    },
                )
            case "notifications/cancelled":
                if timer := self._working.pop(params["requestId"], None):
                    timer.cancel()
            case method if request_id is not None:
                self._say(request_id, error={"code": -32601, "message": f"no method {method}"})

    def _call(self, request_id: Any, name: str, arguments: dict[str, Any]) -> None:
        if name == "work":
            self._executions += 1
            self._working[request_id] = self._loop.call_later(
                arguments["work_s"], self._end_work, request_id, arguments["text"]
            )
        else:
            self._answer(request_id, arguments["text"] if name == "echo" else str(self._executions))

    def _end_work(self, request_id: Any, text: str) -> None:
        del self._working[request_id]
        self._answer(request_id, text)
        self._write()

    def _answer(self, request_id: Any, text: str) -> None:
        self._say(request_id, result={"content": [{"type": "text", "text": text}]})

    def _say(self, request_id: Any, **fields: Any) -> None:
        self._unsaid.append(json.dumps({"jsonrpc": "2.0", "id": request_id, **fields}).encode())

    def _write(self) -> None:
        unwritten = memoryview(b"".join(line + b"\n" for line in self._unsaid))
        self._unsaid.clear()
        while unwritten:
            unwritten = unwritten[os.write(1, unwritten) :]


def main() -> None:
    """Serve until the input ends."""
    loop = asyncio.new_event_loop()
    StdioServer(loop)
    loop.run_forever()


if __name__ == "__main__":
    main()
