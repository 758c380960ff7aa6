"""How a daemon is replaced in place: same process, same ports, and no stranger notices."""

import asyncio
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

from exai.cli.exit_codes import ExitCode
from exai.stores.instance_lock import find_holder
from exai.testing.scripted_provider import ScriptedProvider, answers
from tests.cli.exai_process import PATIENCE_S, Shell
from tests.journeys.daemon_process import (
    PROMPT,
    TOKEN,
    WITHOUT_UVLOOP,
    events_of,
    is_ready,
    name_provider,
    name_server,
    port_in,
    serving,
    shell_in,
    state_dir_of,
    upgrade,
)
from tests.journeys.wire import open_wire
from tests.processes.process_tree import (
    descendants_of,
    environment_of,
)

REPLACED = ["upgrade_asked", "upgrade_agreed", "draining", "stopped", "opened", "ready"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return shell_in(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["picows", "websockets"])
@pytest.mark.parametrize("code", ["", WITHOUT_UVLOOP], ids=["uvloop", "asyncio"])
async def test_what_runs_is_finished_and_who_comes_meanwhile_waits_for_the_successor(
    shell: Shell, library: str, code: str
) -> None:
    shell.environ["EXAI_SERVER_WEBSOCKET_LIBRARY"] = library
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider, asyncio.TaskGroup() as tasks:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell, code=code) as daemon:
            before = daemon.url, daemon.http_url
            async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
                first = await wire.hello(token=TOKEN)
                await wire.begin("chat", arguments=PROMPT)
                await provider.wait_for_requests(1)
                daemon.process.send_signal(signal.SIGHUP)
                assert (await wire.hear_op("going_away"))["reason"] == "restart"
                assert not await is_ready(daemon)
                late = tasks.create_task(greeting_of(daemon.url))
                new = await wire.call("echo", "new", arguments={"text": "x"})
                assert new["error"]["code"] == "SERVICE_UNAVAILABLE"
                assert not late.done()
                may_answer.set()
                assert (await wire.result())["text"] == "done"
                assert await wire.closed() == (1012, "service restart")
            await daemon.has_opened()
            assert (daemon.url, daemon.http_url) == before
            assert (await late)["server"]["instance"] != first["server"]["instance"]
            assert find_holder(state_dir_of(shell)) == (daemon.process.pid,)
            daemon.process.terminate()
            end, lines = await daemon.end()
    assert end.status == ExitCode.OK
    assert events_of(lines)[2:-2] == [f"daemon.{event}" for event in REPLACED]
    assert {line["pid"] for line in lines if "pid" in line} == {daemon.process.pid}


@pytest.mark.slow
async def test_who_waits_is_served_by_the_successor_and_told_when_it_comes_back(
    shell: Shell,
) -> None:
    shell.environ["EXAI_WS_SESSION_MAX_INFLIGHT"] = "1"
    may_answer = asyncio.Event()
    async with ScriptedProvider() as provider:
        provider.script(answers(may_answer, "done"))
        name_provider(shell, provider)
        async with serving(shell) as daemon:
            async with open_wire(daemon.url, greet=False, says_bye=False) as wire:
                ack = await wire.hello(token=TOKEN)
                await wire.begin("chat", "runs", arguments=PROMPT)
                await provider.wait_for_requests(1)
                await wire.begin("chat", "waits", arguments=PROMPT | {"prompt": "other"})
                daemon.process.send_signal(signal.SIGHUP)
                await wire.hear_op("going_away")
                may_answer.set()
                assert (await wire.result("runs"))["text"] == "done"
                assert await wire.closed() == (1012, "service restart")
            resume = {"session_id": ack["session_id"], "resume_token": ack["resume_token"]}
            async with open_wire(daemon.url, greet=False, open_timeout=PATIENCE_S) as again:
                assert (await again.hello(token=TOKEN, resume=resume))["resumed"]
                assert (await again.result("waits"))["text"] == "done"


async def greeting_of(url: str) -> dict[str, Any]:
    """Connect, and return what is said to a hello."""
    async with open_wire(url, greet=False, open_timeout=PATIENCE_S) as wire:
        return await wire.hello(token=TOKEN)


async def test_behind_tls_a_daemon_is_replaced_just_so(shell: Shell) -> None:
    authority = trustme.CA()
    certificate = shell.home / "certificate.pem"
    certificate.write_bytes(
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.bytes()
    )
    shell.environ["EXAI_SERVER_TLS_CERTIFICATE"] = str(certificate)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serving(shell) as daemon:
        url = daemon.url
        async with open_wire(url, token=TOKEN, ssl=context) as wire:
            daemon.process.send_signal(signal.SIGHUP)
            assert await wire.closed() == (1012, "service restart")
        async with open_wire(url, token=TOKEN, ssl=context, open_timeout=PATIENCE_S) as wire:
            assert (await wire.call("echo", arguments={"text": "x"}))["ok"]
        await daemon.has_opened()
        assert daemon.url == url
        certificate.write_text("no certificate")
        daemon.process.send_signal(signal.SIGHUP)
        refused = await daemon.has_logged("daemon.upgrade_refused")
        assert str(certificate) in refused["reason"]


@pytest.mark.slow
async def test_a_port_that_was_configured_anew_is_opened_and_the_old_one_closed(
    shell: Shell,
) -> None:
    del shell.environ["EXAI_WS_PORT"]
    config = shell.home / "exai.toml"
    shell.environ["EXAI_CONFIG"] = str(config)
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    config.write_text(f"[server]\nport = {ports[0]}\n")
    async with serving(shell) as daemon:
        http_url = daemon.http_url
        config.write_text(f"[server]\nport = {ports[1]}\n")
        await upgrade(daemon)
        assert (port_in(daemon.url), daemon.http_url) == (ports[1], http_url)
        async with open_wire(daemon.url, token=TOKEN):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]), timeout=PATIENCE_S)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            config.write_text(f"[server]\nport = {port}\n")
            daemon.process.send_signal(signal.SIGHUP)
            refused = await daemon.has_logged("daemon.upgrade_refused")
        assert refused["reason"].startswith("cannot serve: ")
        assert str(port) in refused["reason"]
        async with open_wire(daemon.url, token=TOKEN):
            pass


async def test_a_state_directory_that_was_configured_anew_is_used_and_the_old_one_left(
    shell: Shell,
) -> None:
    config = shell.home / "exai.toml"
    shell.environ["EXAI_CONFIG"] = str(config)
    config.write_text('state_dir = "one"\n')
    async with serving(shell) as daemon:
        config.write_text('state_dir = "other"\n')
        await upgrade(daemon)
        assert find_holder(shell.home / "one") is None
        assert find_holder(shell.home / "other") == (daemon.process.pid,)


@pytest.mark.slow
async def test_children_see_nothing_of_what_is_for_the_daemon_alone(shell: Shell) -> None:
    name_server(shell)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(shell.home / "notify"))
        shell.environ["NOTIFY_SOCKET"] = str(shell.home / "notify")
        async with serving(shell) as daemon:
            await daemon.has_logged("daemon.ready")
            await upgrade(daemon)
            await daemon.has_logged("daemon.ready")
            children = descendants_of(daemon.process.pid)
            assert len(children) == 2
            for seen in map(environment_of, children):
                assert b"EXAI_INHERITED" not in seen
                assert b"NOTIFY_SOCKET" not in seen


async def test_a_successor_that_cannot_be_run_is_logged_and_the_process_ends(
    shell: Shell,
) -> None:
    code = """
from exai.cli import successor
successor.own_command = lambda: ["/nowhere/exai", "serve"]
"""
    async with serving(shell, code=code) as daemon:
        daemon.process.send_signal(signal.SIGHUP)
        end, lines = await daemon.end()
    assert end.status == ExitCode.DEFECT
    assert lines[-1]["event"] == "daemon.upgrade_failed"
    assert lines[-1]["reason"] == "/nowhere/exai: No such file or directory"
    assert not (state_dir_of(shell) / "address.json").exists()
