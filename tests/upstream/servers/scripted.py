"""An MCP server (of 2025, stdio) that does what a test asks of it, mostly evil.

Each tool is one misdeed. Options for what happens before any tool can be called:
--mute (never answers), --deaf (reads nothing after the handshake), --crash STATUS,
--stubborn (ignores SIGTERM and the end of stdin), --tools FILE (lists these tools too),
--page-size N, --endless (a listing without an end), --old (ends at what it does not know),
--no-tools (has none), --long-pages (each of many megabytes).
"""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

options = argparse.ArgumentParser()
options.add_argument("--mute", action="store_true")
options.add_argument("--deaf", action="store_true")
options.add_argument("--stubborn", action="store_true")
options.add_argument("--endless", action="store_true")
options.add_argument("--crash", type=int)
options.add_argument("--old", action="store_true")
options.add_argument("--no-tools", action="store_true")
options.add_argument("--long-pages", action="store_true")
options.add_argument("--tools")
options.add_argument("--page-size", type=int, default=1000)
args = options.parse_args()

waiting: dict[Any, dict[str, Any]] = {}
own_requests: dict[str, Any] = {}
listings: list[dict[str, Any]] = []
broken_after = 1_000_000
counted = 0
extra_tools: list[dict[str, Any]] = json.loads(Path(args.tools).read_text()) if args.tools else []


def write(line: str, end: str = "\n") -> None:
    sys.stdout.write(line + end)
    sys.stdout.flush()


def send(**message: Any) -> None:
    write(json.dumps({"jsonrpc": "2.0", **message}))


def answer(request_id: Any, text: str = "done", **result: Any) -> None:
    content = [{"type": "text", "text": text}]
    send(id=request_id, result={"content": content, **result})


def list_tools(request_id: Any, params: dict[str, Any]) -> None:
    names = [name.removeprefix("do_") for name in globals() if name.startswith("do_")]
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in names] + extra_tools
    if args.endless:
        tools = [{"name": f"t{time.monotonic_ns()}", "inputSchema": {"type": "object"}}] * 7
    listings.append(params)
    start = int(params.get("cursor", 0))
    end = start + args.page_size
    more = {"nextCursor": str(end)} if end < len(tools) or args.endless else {}
    page = tools if args.endless else tools[start:end]
    if args.long_pages:
        page, more = [{"name": "t", "description": "x" * 5_000_000}], {"nextCursor": "0"}
    send(id=request_id, result={"tools": 7 if len(listings) > broken_after else page, **more})


def do_echo(request_id: Any, arguments: dict[str, Any]) -> None:
    answer(request_id, arguments.get("text", ""))


def do_slowly(request_id: Any, arguments: dict[str, Any]) -> None:
    time.sleep(arguments["seconds"])
    answer(request_id, arguments["text"])


def do_count(request_id: Any, arguments: dict[str, Any]) -> None:
    global counted
    counted += 1
    answer(request_id, str(counted))


def do_pid(request_id: Any, arguments: dict[str, Any]) -> None:
    answer(request_id, str(os.getpid()))


def do_result(request_id: Any, arguments: dict[str, Any]) -> None:
    send(id=request_id, result=arguments)


def do_message(request_id: Any, arguments: dict[str, Any]) -> None:
    send(id=request_id, **arguments)


def do_line(request_id: Any, arguments: dict[str, Any]) -> None:
    """Write a line as it is, `ID` replaced."""
    write(arguments["line"].replace("ID", str(request_id)))


def do_long_line(request_id: Any, arguments: dict[str, Any]) -> None:
    head, tail = arguments["head"], arguments["tail"]
    sys.stdout.write(head.replace("ID", str(request_id)))
    piece = "x" * 65536
    for _ in range(arguments["size_bytes"] // len(piece)):
        sys.stdout.write(piece)
    write(tail.replace("ID", str(request_id)))
    if "then" in arguments:
        answer(arguments["then"])


def do_many_values(request_id: Any, arguments: dict[str, Any]) -> None:
    values = ",".join([arguments["value"]] * arguments["count"])
    write('{"id":' + str(request_id) + ',"result":{"content":[],"structuredContent":{"v":[', "")
    write(values + "]}}}")


def do_exit(request_id: Any, arguments: dict[str, Any]) -> None:
    sys.stderr.write("last words\n")
    sys.exit(arguments.get("status", 1))


def do_close_output(request_id: Any, arguments: dict[str, Any]) -> None:
    os.close(1)
    time.sleep(600)


def do_close_input(request_id: Any, arguments: dict[str, Any]) -> None:
    os.close(0)
    time.sleep(600)


def do_be_killed(request_id: Any, arguments: dict[str, Any]) -> None:
    os.kill(os.getpid(), arguments.get("signal", signal.SIGKILL))


def do_answer_and_exit(request_id: Any, arguments: dict[str, Any]) -> None:
    answer(request_id, "x" * arguments["size_bytes"])
    os._exit(0)


def do_wait(request_id: Any, arguments: dict[str, Any]) -> None:
    """Answer nothing; with `when_cancelled_s`, answer so long after being cancelled."""
    waiting[request_id] = arguments


def do_what_waits(request_id: Any, arguments: dict[str, Any]) -> None:
    answer(request_id, json.dumps(list(waiting)))


def do_progress(request_id: Any, arguments: dict[str, Any]) -> None:
    token = arguments["_token"]
    for done in range(arguments["steps"]):
        params = {"progressToken": token, "progress": done + 1, "total": arguments["steps"]}
        send(method="notifications/progress", params={**params, "message": f"step {done + 1}"})
    answer(request_id)
    send(method="notifications/progress", params={"progressToken": token, "progress": 99})


def do_progress_and_end(request_id: Any, arguments: dict[str, Any]) -> None:
    """Report and answer in one write, so that both are read in one turn."""
    report = {"method": "notifications/progress", "params": arguments["_progress"]}
    result = {"id": request_id, "result": {"content": []}}
    write("\n".join(json.dumps({"jsonrpc": "2.0", **message}) for message in (report, result)))


def do_flood(request_id: Any, arguments: dict[str, Any]) -> None:
    stream = {"stderr": sys.stderr, "stdout": sys.stdout}[arguments["stream"]]
    for _ in range(arguments["count"]):
        stream.write(arguments["text"])
    stream.flush()
    answer(request_id)


def do_ask(request_id: Any, arguments: dict[str, Any]) -> None:
    """Send the client a request; its answer is the result."""
    own_id = arguments.get("id", "own-1")
    own_requests[own_id] = request_id
    send(id=own_id, method=arguments["method"], params=arguments.get("params", {}))


def do_tell(request_id: Any, arguments: dict[str, Any]) -> None:
    """Send the client a notification."""
    send(**arguments)
    answer(request_id)


def do_ask_for_ever(request_id: Any, arguments: dict[str, Any]) -> None:
    while True:
        send(id=1, method="ping", params={})


def do_environment(request_id: Any, arguments: dict[str, Any]) -> None:
    answer(request_id, json.dumps(dict(os.environ)))


def do_leave_orphan(request_id: Any, arguments: dict[str, Any]) -> None:
    """Start a grandchild that leaves the group, and whose parent ends at once."""
    told, tell = os.pipe()
    if os.fork() == 0:
        if os.fork() == 0:
            os.setsid()
            os.write(tell, str(os.getpid()).encode())
            environment = {} if arguments.get("in_disguise") else dict(os.environ)
            os.execvpe("sleep", ["sleep", "600"], environment)
        os._exit(0)
    os.wait()
    answer(request_id, os.read(told, 100).decode())


def do_break_listings(request_id: Any, arguments: dict[str, Any]) -> None:
    global broken_after
    broken_after = len(listings)
    send(method="notifications/tools/list_changed")
    answer(request_id)


def do_count_listings(request_id: Any, arguments: dict[str, Any]) -> None:
    answer(request_id, str(len(listings)))


def do_add_tool(request_id: Any, arguments: dict[str, Any]) -> None:
    extra_tools.append(arguments["tool"])
    send(method="notifications/tools/list_changed")
    answer(request_id)


def cancelled(params: dict[str, Any]) -> None:
    arguments = waiting.get(params["requestId"], {})
    if "when_cancelled_s" in arguments:
        time.sleep(arguments["when_cancelled_s"])
        answer(params["requestId"])
        del waiting[params["requestId"]]


def take(message: dict[str, Any]) -> None:
    method, params = message.get("method"), message.get("params", {})
    if method == "initialize":
        version = {"name": "scripted", "version": "7"}
        capabilities = {"tools": {"listChanged": True}}
        result = {"protocolVersion": "2025-11-25", "serverInfo": version}
        send(id=message["id"], result={**result, "capabilities": capabilities})
    elif method == "tools/list" and not args.no_tools:
        list_tools(message["id"], params)
    elif method == "tools/call":
        arguments = {**params["arguments"]}
        if params["name"] == "progress":
            arguments["_token"] = params["_meta"]["progressToken"]
        if params["name"] == "progress_and_end":
            token = params["_meta"]["progressToken"]
            arguments["_progress"] = {"progressToken": token, "progress": 1}
        globals()["do_" + params["name"]](message["id"], arguments)
    elif method == "notifications/cancelled":
        cancelled(params)
    elif method is None and message["id"] in own_requests:
        reply = {key: message[key] for key in ("result", "error") if key in message}
        answer(own_requests.pop(message["id"]), json.dumps(reply))
    elif args.old and "id" in message:
        sys.exit(f"expected initialize, not {method}")
    elif "id" in message:
        send(id=message["id"], error={"code": -32601, "message": "Method not found"})


if args.crash is not None:
    sys.stderr.write("cannot go on\n")
    sys.exit(args.crash)
if args.stubborn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while line := sys.stdin.readline():
    message = json.loads(line)
    if not args.mute:
        take(message)
    if args.deaf and message.get("method") == "tools/list":
        break
while args.stubborn or args.deaf:
    time.sleep(1)
