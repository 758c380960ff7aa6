"""An MCP server on its standard streams whose executions are on record, beyond its own death.

    python remembering.py FILE

Each tool appends `begun WHAT` to the file before it does anything. `again` and `once` never
answer their first execution of a WHAT, and answer a later one with how many there were; the
first may be repeated, the second not. `now` answers at once, and may not be repeated.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

record = Path(sys.argv[1])
SCHEMA = {"type": "object", "properties": {"what": {"type": "string"}}}
TOOLS = [
    {"name": "again", "inputSchema": SCHEMA, "annotations": {"idempotentHint": True}},
    {"name": "once", "inputSchema": SCHEMA},
    {"name": "now", "inputSchema": SCHEMA},
]


def send(request_id: Any, result: dict[str, Any] | None = None, **fields: Any) -> None:
    answer = fields or {"result": result}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request_id, **answer}) + "\n")
    sys.stdout.flush()


def execute(request_id: Any, tool: str, what: str) -> None:
    line = f"begun {what}\n"
    descriptor = os.open(record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, line.encode())
    os.close(descriptor)
    count = record.read_text().splitlines(keepends=True).count(line)
    if tool == "now" or count > 1:
        send(request_id, {"content": [{"type": "text", "text": f"{what} {count}"}]})


for message in map(json.loads, sys.stdin):
    request_id, params = message.get("id"), message.get("params", {})
    match message["method"]:
        case "initialize":
            version, info = params["protocolVersion"], {"name": "remembering", "version": "1"}
            offered = {"capabilities": {"tools": {}}, "serverInfo": info}
            send(request_id, {"protocolVersion": version, **offered})
        case "tools/list":
            send(request_id, {"tools": TOOLS})
        case "tools/call":
            execute(request_id, params["name"], params["arguments"]["what"])
        case method if request_id is not None:
            send(request_id, error={"code": -32601, "message": f"no method {method}"})
