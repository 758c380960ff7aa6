"""An MCP server on its standard streams that writes down what it executes, for `bench.chaos`.

    python bench/servers/logged_tools.py LOG NAME

`append` may be done once only, `put` again, and `find` changes nothing. Each works for `work_s`,
any number at the same time, and answers with the id of this very execution, the `tag` it was
given, and `size_bytes` in all; or with an error, where it `fails`. LOG has a line, in one write,
for each start of the server and each beginning and end of an execution; it outlives the server.
"""

import asyncio
import json
import os
import sys
import time
from typing import Any

_READ_BYTES = 262_144
_INPUT = {
    "type": "object",
    "properties": {
        "tag": {"type": "string"},
        "work_s": {"type": "number"},
        "size_bytes": {"type": "integer"},
        "fails": {"type": "boolean"},
    },
    "required": ["tag", "work_s", "size_bytes", "fails"],
}
_ANNOTATIONS = {"append": {}, "put": {"idempotentHint": True}, "find": {"readOnlyHint": True}}
_TOOLS = [
    {"name": name, "description": name, "inputSchema": _INPUT, "annotations": annotations}
    for name, annotations in _ANNOTATIONS.items()
]


class LoggedTools:
    """Reads lines, executes what they ask for, and answers each when its time has come."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: int, name: str) -> None:
        self._loop = loop
        self._log = log
        self._name = name
        self._unread = b""
        self._working: dict[Any, tuple[str, asyncio.TimerHandle]] = {}
        loop.add_reader(0, self._read)
        self._note("started", "-", "-")

    def _note(self, what: str, execution_id: str, tag: str) -> None:
        line = f"{what} {execution_id} {tag} {self._name} {os.getpid()} {time.time():.6f}\n"
        os.write(self._log, line.encode())

    def _read(self) -> None:
        chunk = os.read(0, _READ_BYTES)
        if not chunk:
            self._loop.stop()
            return
        *lines, self._unread = (self._unread + chunk).split(b"\n")
        for line in lines:
            self._take(json.loads(line))

    def _take(self, message: dict[str, Any]) -> None:
        params, request_id = message.get("params", {}), message.get("id")
        match message["method"]:
            case "tools/call":
                self._begin(request_id, params["arguments"])
            case "tools/list":
                self._say(request_id, result={"tools": _TOOLS})
            case "initialize":
                version = params["protocolVersion"]
                server = {"name": self._name, "version": "1"}
                capabilities: dict[str, Any] = {"tools": {}}
                told = {"protocolVersion": version, "capabilities": capabilities}
                self._say(request_id, result={**told, "serverInfo": server})
            case "notifications/cancelled":
                if work := self._working.pop(params["requestId"], None):
                    execution_id, timer = work
                    timer.cancel()
                    self._note("cancelled", execution_id, "-")
            case method if request_id is not None:
                self._say(request_id, error={"code": -32601, "message": f"no method {method}"})

    def _begin(self, request_id: Any, arguments: dict[str, Any]) -> None:
        execution_id = os.urandom(8).hex()
        self._note("begun", execution_id, arguments["tag"])
        timer = self._loop.call_later(
            arguments["work_s"], self._end, request_id, execution_id, arguments
        )
        self._working[request_id] = execution_id, timer

    def _end(self, request_id: Any, execution_id: str, arguments: dict[str, Any]) -> None:
        del self._working[request_id]
        self._note("completed", execution_id, arguments["tag"])
        text = f"{execution_id} {arguments['tag']} ".ljust(arguments["size_bytes"], ".")
        content = [{"type": "text", "text": text}]
        self._say(request_id, result={"content": content, "isError": arguments["fails"]})

    def _say(self, request_id: Any, **fields: Any) -> None:
        message = {"jsonrpc": "2.0", "id": request_id, **fields}
        unwritten = memoryview(json.dumps(message).encode() + b"\n")
        while unwritten:
            unwritten = unwritten[os.write(1, unwritten) :]


def main() -> None:
    """Serve until the input ends."""
    log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    loop = asyncio.new_event_loop()
    LoggedTools(loop, log, sys.argv[2])
    loop.run_forever()


if __name__ == "__main__":
    main()
