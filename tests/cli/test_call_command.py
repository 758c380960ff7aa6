"""`exai call` and `exai tools`, each a process of its own, against a scripted daemon."""

import asyncio
import json
import os
import pty
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from exai.cli.exit_codes import ExitCode
from tests.cli.exai_process import PATIENCE_S, Shell, ended
from tests.client.scripted_daemon import TOKEN, Frame, Peer, ScriptedDaemon, scripted_daemon


@pytest.fixture
async def daemon() -> AsyncIterator[ScriptedDaemon]:
    async with scripted_daemon() as daemon:
        yield daemon


@pytest.fixture
def shell(daemon: ScriptedDaemon, home: Path) -> Shell:
    shell = Shell(home)
    shell.environ |= {"EXAI_WS_TOKEN": TOKEN, "EXAI_WS_PORT": daemon.url[:-1].rpartition(":")[2]}
    return shell


async def test_the_answer_goes_to_stdout(shell: Shell) -> None:
    end = await shell.run("call", "echo", "text=5")
    assert end == (ExitCode.OK, '{"text": "5"}\n', "")


async def test_values_are_read_as_the_tools_schema_asks(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    daemon.schemas["echo"] = {"properties": {"count": {"type": "integer"}}}
    end = await shell.run("call", "echo", "count=5", 'tags:=["a"]', "other=5")
    assert json.loads(end.out) == {"count": 5, "tags": ["a"], "other": "5"}


async def test_all_arguments_may_come_as_json(shell: Shell, daemon: ScriptedDaemon) -> None:
    end = await shell.run("call", "echo", "--json", "-", stdin='{"text": "hi"}')
    assert end.out == '{"text": "hi"}\n'
    assert [frame["op"] for frame in daemon.heard][:2] == ["hello", "call_tool"]


async def test_the_whole_frame_is_printed_for_programs(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def stream(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.progress(call, delta="dön", offset=0, attempt=1)
        await peer.answer(call, "döne", meta={"run_ms": 1})

    daemon.tools["stream"] = stream
    end = await shell.run("call", "stream", "-o", "json")
    assert end.status == ExitCode.OK
    assert end.out.count("\n") == 1
    frame = json.loads(end.out)
    assert (frame["op"], frame["text"], frame["meta"]) == ("call_tool_res", "döne", {"run_ms": 1})


async def test_streamed_text_appears_as_it_comes_and_once(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    go_on = asyncio.Event()

    async def stream(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.progress(call, message="thinks", progress=1, total=2)
        await peer.progress(call, delta="one ", offset=0, attempt=1)
        await go_on.wait()
        await peer.progress(call, delta="one two ", offset=0, attempt=1)
        await peer.answer(call, "one two three")

    daemon.tools["stream"] = stream
    process = await shell.start("call", "stream")
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readexactly(4) == b"one "
    go_on.set()
    end = await ended(process)
    assert end == (ExitCode.OK, "two three\n", "thinks (1/2)\n")


async def test_a_failure_and_a_refusal_end_with_their_own_status(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def fail(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.fail(call, "TOOL_EXECUTION_ERROR", "it broke")

    async def refuse(peer: Peer, call: Frame) -> None:
        await peer.fail(call, "OVER_CAPACITY", "full")

    daemon.tools |= {"fail": fail, "refuse": refuse}
    failed, refused = await asyncio.gather(shell.run("call", "fail"), shell.run("call", "refuse"))
    assert failed == (ExitCode.CALL_FAILED, "", "exai: TOOL_EXECUTION_ERROR: it broke\n")
    assert refused == (ExitCode.REFUSED, "", "exai: OVER_CAPACITY: full\n")


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, ExitCode.INTERRUPTED), (signal.SIGTERM, ExitCode.TERMINATED)],
)
async def test_a_signal_takes_the_call_back(
    shell: Shell, daemon: ScriptedDaemon, number: signal.Signals, status: ExitCode
) -> None:
    process = await shell.start("call", "hang")
    call = await daemon.heard_op("call_tool")
    process.send_signal(number)
    assert (await daemon.heard_op("cancel_tool"))["request_id"] == call["request_id"]
    end = await ended(process)
    assert (end.status, end.out, end.err.count("\n")) == (status, "", 1)


async def test_a_second_ctrl_c_waits_for_nobody(shell: Shell, daemon: ScriptedDaemon) -> None:
    async def ignore(peer: Peer, frame: Frame) -> None:
        pass

    daemon.ops["cancel_tool"] = ignore
    process = await shell.start("call", "hang")
    await daemon.heard_op("call_tool")
    process.send_signal(signal.SIGINT)
    await daemon.heard_op("cancel_tool")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(4):
        assert (await ended(process)).status == ExitCode.INTERRUPTED


async def test_a_lost_connection_is_no_answer(shell: Shell, daemon: ScriptedDaemon) -> None:
    async def die(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.socket.close(1012, "service restart")

    daemon.tools["die"] = die
    end = await shell.run("call", "die")
    assert end.status == ExitCode.CANNOT_CONNECT
    assert "connection lost (1012 service restart); connecting again" in end.err
    assert "nobody knows whether the call has run" in end.err


async def test_nobody_listening_says_how_to_start_it(shell: Shell) -> None:
    end = await shell.run("call", "echo", "text=x", "--url", "ws://127.0.0.1:9/")
    assert end.status == ExitCode.CANNOT_CONNECT
    assert "ws://127.0.0.1:9/" in end.err
    assert "exai serve" in end.err


async def test_a_refused_token_says_where_it_came_from(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    shell.environ["EXAI_WS_TOKEN"] = "not-the-right-token"
    end = await shell.run("call", "echo", "text=x")
    assert end.status == ExitCode.UNAUTHORIZED
    assert "EXAI_WS_TOKEN" in end.err
    assert "not-the-right" not in end.err


async def test_without_any_token_it_says_where_it_looked(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    del shell.environ["EXAI_WS_TOKEN"]
    end = await shell.run("call", "echo", "text=x", "--state-dir", "here")
    assert end.status == ExitCode.UNAUTHORIZED
    assert str(shell.home / "here" / "token") in end.err


WRONG_COMMAND_LINES = (
    (),
    ("echo", "text=x", "--json", "{}"),
    ("echo", "--timeout", "nan"),
    ("echo", "--as", "nobody"),
)


async def test_a_wrong_command_line_is_told_without_a_call(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    ends = await asyncio.gather(*(shell.run("call", *line) for line in WRONG_COMMAND_LINES))
    for line, end in zip(WRONG_COMMAND_LINES, ends, strict=True):
        assert (end.status, end.out) == (ExitCode.USAGE, ""), line
        assert end.err != "", line
    assert daemon.heard == []


async def test_control_characters_do_not_reach_a_terminal(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def attack(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await peer.progress(call, delta="\x1b]0;", offset=0, attempt=1)
        await peer.answer(call, "\x1b]0;evil\x07")

    daemon.tools["attack"] = attack
    plain = await shell.run("call", "attack")
    assert plain.out == "\x1b]0;evil\x07\n"
    ours, theirs = pty.openpty()
    try:
        process = await asyncio.create_subprocess_exec(
            *(shell.python, "-m", "exai", "call", "attack"),
            stdout=theirs,
            env=shell.environ,
            cwd=shell.home,
        )
        async with asyncio.timeout(PATIENCE_S):
            assert await process.wait() == ExitCode.OK
        assert os.read(ours, 1000) == b"\\x1b]0;evil\\x07\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


async def test_a_pipe_that_closes_early_takes_the_call_back(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def stream(peer: Peer, call: Frame) -> None:
        await peer.ack(call)
        await daemon.heard_op("of_the_test")
        await peer.progress(call, delta="one", offset=0, attempt=1)

    daemon.tools["stream"] = stream
    reading, writing = os.pipe()
    process = await asyncio.create_subprocess_exec(
        *(shell.python, "-m", "exai", "call", "stream"),
        stdout=writing,
        stderr=asyncio.subprocess.PIPE,
        env=shell.environ,
        cwd=shell.home,
    )
    os.close(writing)
    await daemon.heard_op("call_tool")
    os.close(reading)
    await daemon.hear({"op": "of_the_test"})
    await daemon.heard_op("cancel_tool")
    end = await ended(process)
    assert end.status == ExitCode.CALL_FAILED
    assert end.err == ""


async def test_tools_are_listed_as_they_are_called(shell: Shell, daemon: ScriptedDaemon) -> None:
    daemon.schemas["hang"] = {"properties": {"a": {}, "b": {}}, "required": ["b"]}
    end = await shell.run("tools")
    assert end == (
        ExitCode.OK,
        "echo text=\n    Tests echo.\nhang [a=] b=\n    Tests hang.\n",
        "",
    )


async def test_tools_are_listed_for_programs(shell: Shell) -> None:
    end = await shell.run("tools", "-o", "json")
    assert [tool["name"] for tool in json.loads(end.out)] == ["echo", "hang"]


async def test_the_time_a_call_may_take_is_for_the_daemon_to_keep(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    await shell.run("call", "echo", "text=x", "--timeout", "2.5")
    assert (await daemon.heard_op("call_tool"))["timeout_s"] == 2.5


async def test_a_new_token_is_not_lost_with_the_connection(
    shell: Shell, daemon: ScriptedDaemon
) -> None:
    async def take_it_and_let_nobody_in(peer: Peer, request: Frame) -> None:
        daemon.token = "another-token-0123456789"
        await peer.socket.close(1011)

    daemon.ops["rotate_token"] = take_it_and_let_nobody_in
    end = await shell.run("token", "rotate")
    asked = await daemon.heard_op("rotate_token")
    assert end.status == ExitCode.CANNOT_CONNECT
    assert end.out.strip() == asked["new"]
    assert "if the daemon refuses the old token from now on" in end.err
