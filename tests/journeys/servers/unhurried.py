"""An MCP server on its standard streams that takes its time, for many calls at once.

    python unhurried.py FILE

`again` may be repeated, `once` may not. Each appends `begun WHAT` to the file, and answers WHAT
after `after_s`.
"""

import json
import os
import sys
import threading
from typing import Any

SCHEMA = {
    "type": "object",
    "properties": {"what": {"type": "string"}, "after_s": {"type": "number"}},
}
TOOLS = [
    {"name": "again", "inputSchema": SCHEMA, "annotations": {"idempotentHint": True}},
    {"name": "once", "inputSchema": SCHEMA},
]
speech = threading.Lock()


def send(request_id: Any, **fields: Any) -> None:
    with speech:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": request_id, **fields}) + "\n")
        sys.stdout.flush()


def execute(request_id: Any, arguments: dict[str, Any]) -> None:
    descriptor = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"begun {arguments['what']}\n".encode())
    os.close(descriptor)
    result = {"content": [{"type": "text", "text": arguments["what"]}]}
    threading.Timer(arguments["after_s"], send, [request_id], {"result": result}).start()


for message in map(json.loads, sys.stdin):
    request_id, params = message.get("id"), message.get("params", {})
    match message["method"]:
        case "initialize":
            version, info = params["protocolVersion"], {"name": "unhurried", "version": "1"}
            offered = {"capabilities": {"tools": {}}, "serverInfo": info}
            send(request_id, result={"protocolVersion": version, **offered})
        case "tools/list":
            send(request_id, result={"tools": TOOLS})
        case "tools/call":
            execute(request_id, params["arguments"])
        case method if request_id is not None:
            send(request_id, error={"code": -32601, "message": f"no method {method}"})
