"""An MCP server of 2025, on its standard streams, that has resources and prompts and may be evil.

    python archive.py [--has FILE] [--mute METHOD]… [--fail METHOD]…

`--has` has what it lists by method (`resources/list` …) instead of one file and one prompt. It
answers nothing to a `--mute` method, and an error to a `--fail` one. Its tool `tell` sends the
messages that it is given; `wait` answers nothing until `release`; `asked` says which methods it was
asked, with their params; `exit` ends the process.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

options = argparse.ArgumentParser()
options.add_argument("--has", type=lambda path: json.loads(Path(path).read_text()), default={})
options.add_argument("--mute", action="append", default=[])
options.add_argument("--fail", action="append", default=[])
args = options.parse_args()

LISTS: dict[str, tuple[str, list[Any]]] = {
    "resources/list": ("resources", [{"uri": "file:///a", "name": "a"}]),
    "resources/templates/list": ("resourceTemplates", []),
    "prompts/list": ("prompts", [{"name": "sum up"}]),
    "tools/list": (
        "tools",
        [
            {"name": name, "inputSchema": {"type": "object"}}
            for name in ("tell", "wait", "release", "asked", "exit")
        ],
    ),
}
asked: list[tuple[str, Any]] = []
waiting: list[Any] = []


def send(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answer(request_id: Any, text: str = "done") -> None:
    send(id=request_id, result={"content": [{"type": "text", "text": text}]})


def call(request_id: Any, tool: str, arguments: dict[str, Any]) -> None:
    match tool:
        case "tell":
            for message in arguments["messages"]:
                send(**message)
            answer(request_id)
        case "wait":
            waiting.append(request_id)
        case "release":
            while waiting:
                answer(waiting.pop())
            answer(request_id)
        case "asked":
            answer(request_id, json.dumps(asked))
        case "exit":
            sys.exit(4)


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    match method:
        case "initialize":
            can: dict[str, Any] = {"tools": {}, "logging": {}, "prompts": {"listChanged": True}}
            can["resources"] = {"subscribe": True, "listChanged": True}
            info = {"name": "archive", "version": "1"}
            return {"protocolVersion": "2025-11-25", "serverInfo": info, "capabilities": can}
        case "resources/read":
            text = {"uri": params["uri"], "text": "of the archive"}
            return {"contents": [text], "extra": {"kept": True}}
        case "prompts/get":
            return {"messages": [], "description": json.dumps(params)}
        case "resources/subscribe" | "resources/unsubscribe" | "logging/setLevel":
            return {}
        case _ if method in LISTS:
            key, listed = LISTS[method]
            return {key: args.has.get(method, listed)}
    return None


def take(request_id: Any, method: str, params: dict[str, Any]) -> None:
    if method == "tools/call":
        call(request_id, params["name"], params["arguments"])
        return
    asked.append((method, params))
    if method in args.fail:
        send(id=request_id, error={"code": -32603, "message": "no"})
    elif method in args.mute or request_id is None:
        pass
    elif (result := result_of(method, params)) is not None:
        send(id=request_id, result=result)
    else:
        send(id=request_id, error={"code": -32601, "message": f"no method {method}"})


for line in sys.stdin:
    message = json.loads(line)
    take(message.get("id"), message.get("method", ""), message.get("params", {}))
