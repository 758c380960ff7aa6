"""Tokens that are replaced while the daemon runs."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from exai.core.config import AuthConfig, Config, PrincipalConfig, Secret
from exai.core.events import SessionEnded, TokenReplaced, TokenRotationFailed
from exai.core.token_store import RotationsUnreadable
from exai.testing.running_daemon import TOKEN, RunningDaemon, daemon_config, running_daemon
from exai.testing.scripted_tool import Gates, ScriptedTool
from tests.journeys.wire import Frame, Wire, open_wire

OTHER_TOKEN = "token-of-somebody-else-0123456789"
NEW_TOKEN = "a-new-token-0123456789abcdef"


def config_of(state_dir: Path, token: str = TOKEN) -> Config:
    principals = {
        "default": PrincipalConfig(token=Secret(token), may_rotate=True),
        "other": PrincipalConfig(token=Secret(OTHER_TOKEN)),
    }
    return daemon_config(state_dir, principals=principals)


async def rotate(wire: Wire, old: str, new: str, **fields: Any) -> Frame:
    return await wire.ask("rotate_token", "rotate_token_res", old=old, new=new, **fields)


async def opens(daemon: RunningDaemon, token: str) -> bool:
    async with open_wire(daemon.url, greet=False) as wire:
        return bool((await wire.hello(token=token))["ok"])


async def test_a_new_token_holds_at_once_and_outlives_a_restart(tmp_path: Path) -> None:
    async with running_daemon(config_of(tmp_path)) as daemon:
        async with open_wire(daemon.url, token=TOKEN) as wire:
            assert await rotate(wire, TOKEN, NEW_TOKEN, request_id="t1") == {
                "op": "rotate_token_res", "ok": True, "request_id": "t1",
            }  # fmt: skip
            assert (await wire.call("echo", arguments={"text": "still here"}))["ok"]
        assert [await opens(daemon, token) for token in (TOKEN, NEW_TOKEN)] == [False, True]
        (replaced,) = daemon.events.of(TokenReplaced)
        assert (replaced.principal, replaced.revoked_count) == ("default", 0)
        assert not any(token in repr(daemon.events.events) for token in (TOKEN, NEW_TOKEN))
    kept = tmp_path / "rotated_tokens.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert not any(token in kept.read_text() for token in (TOKEN, NEW_TOKEN))
    async with running_daemon(config_of(tmp_path)) as daemon:
        assert [await opens(daemon, token) for token in (TOKEN, NEW_TOKEN)] == [False, True]


async def test_a_rotation_yields_to_the_operator(tmp_path: Path) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await rotate(wire, TOKEN, NEW_TOKEN)
    configured = "configured-anew-0123456789"
    async with running_daemon(config_of(tmp_path, configured)) as daemon:
        opened = [await opens(daemon, token) for token in (TOKEN, NEW_TOKEN, configured)]
    assert opened == [False, False, True]


async def test_the_old_token_stays_valid_for_the_grace(tmp_path: Path) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        await rotate(wire, TOKEN, NEW_TOKEN, grace_s=3600)
        assert await opens(daemon, TOKEN)
        await rotate(wire, NEW_TOKEN, NEW_TOKEN + "-2", grace_s=0.05)
        assert not await opens(daemon, TOKEN)
        async with asyncio.timeout(10):
            while await opens(daemon, NEW_TOKEN):
                pass
        assert await opens(daemon, NEW_TOKEN + "-2")


async def test_a_rotation_that_is_asked_for_again_holds_already(tmp_path: Path) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        told = [await rotate(wire, TOKEN, NEW_TOKEN, revoke_sessions=True) for _ in range(2)]
        assert [answer["ok"] for answer in told] == [True, True]
        assert len(daemon.events.of(TokenReplaced)) == 1
        assert (await rotate(wire, TOKEN + "-", NEW_TOKEN))["error"] == "unauthorized"


async def test_a_token_on_its_way_out_replaces_no_other(tmp_path: Path) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        assert (await rotate(wire, TOKEN, NEW_TOKEN, grace_s=3600))["ok"]
        refused = await rotate(wire, TOKEN, NEW_TOKEN + "-2")
        assert refused["error"] == "unauthorized"
        assert [await opens(daemon, token) for token in (TOKEN, NEW_TOKEN)] == [True, True]


async def test_other_sessions_end_where_that_is_asked_for(tmp_path: Path) -> None:
    gates = Gates()
    async with (
        running_daemon(config_of(tmp_path), [ScriptedTool("gate", gates)]) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
        open_wire(daemon.url, token=TOKEN, says_bye=False) as second,
        open_wire(daemon.url, token=OTHER_TOKEN) as other,
    ):
        await second.say("call_tool", name="gate", request_id="r1")
        await gates.until_inside("g")
        assert (await rotate(wire, TOKEN, NEW_TOKEN, revoke_sessions=True))["ok"]
        assert await second.closed() == (4003, "unauthorized")
        await gates.until_cancelled()
        for each in (wire, other):
            assert (await each.call("echo", arguments={"text": "x"}))["ok"]
        assert [event.reason for event in daemon.events.of(SessionEnded)] == ["revoked"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "missing_params"),
        ({"old": TOKEN}, "missing_params"),
        ({"new": NEW_TOKEN}, "missing_params"),
        ({"old": TOKEN, "new": ""}, "missing_params"),
        ({"old": "wrong-token-0123456789", "new": NEW_TOKEN}, "unauthorized"),
        ({"old": OTHER_TOKEN, "new": NEW_TOKEN}, "unauthorized"),
        ({"old": TOKEN, "new": "short"}, "weak_token"),
        ({"old": TOKEN, "new": "with a space 0123456789"}, "weak_token"),
        ({"old": TOKEN, "new": "with-ümlaut-0123456789"}, "weak_token"),
        ({"old": TOKEN, "new": TOKEN}, "weak_token"),
        ({"old": TOKEN, "new": OTHER_TOKEN}, "weak_token"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_word(
    tmp_path: Path, fields: dict[str, str], word: str
) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        refused = await wire.ask("rotate_token", "rotate_token_res", **fields)
        assert refused == {"op": "rotate_token_res", "ok": False, "error": word}
        assert await opens(daemon, TOKEN)
        (failed,) = daemon.events.of(TokenRotationFailed)
        assert failed.reason == word
    assert not (tmp_path / "rotated_tokens.json").exists()


async def test_only_who_may_replaces_its_token(tmp_path: Path) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=OTHER_TOKEN) as wire,
    ):
        assert (await rotate(wire, OTHER_TOKEN, NEW_TOKEN))["error"] == "unauthorized"


async def test_without_tokens_there_is_none_to_replace(tmp_path: Path) -> None:
    config = daemon_config(tmp_path, auth=AuthConfig(mode="none"))
    async with running_daemon(config) as daemon, open_wire(daemon.url) as wire:
        assert (await rotate(wire, TOKEN, NEW_TOKEN))["error"] == "unauthorized"


async def test_of_two_rotations_at_once_one_holds(tmp_path: Path) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        for n in (1, 2):
            await wire.say("rotate_token", old=TOKEN, new=f"{NEW_TOKEN}-{n}")
        told = [await wire.hear_op("rotate_token_res") for _ in range(2)]
        assert [answer.get("error") for answer in told] == [None, "unauthorized"]
        assert [await opens(daemon, f"{NEW_TOKEN}-{n}") for n in (1, 2)] == [True, False]


async def test_a_rotation_that_cannot_be_stored_does_not_hold(tmp_path: Path) -> None:
    async with (
        running_daemon(config_of(tmp_path)) as daemon,
        open_wire(daemon.url, token=TOKEN) as wire,
    ):
        (tmp_path / "rotated_tokens.json").mkdir()
        await wire.say("rotate_token", old=TOKEN, new=NEW_TOKEN)
        refused = await wire.hear_op("error")
        assert refused["error"]["code"] == "SERVICE_UNAVAILABLE"
        assert [await opens(daemon, token) for token in (TOKEN, NEW_TOKEN)] == [True, False]


@pytest.mark.parametrize("content", ["", "{", json.dumps([{"principal": "default"}])])
async def test_a_damaged_file_keeps_the_daemon_from_starting(tmp_path: Path, content: str) -> None:
    (tmp_path / "rotated_tokens.json").write_text(content)
    with pytest.raises(ExceptionGroup) as failed:
        async with running_daemon(config_of(tmp_path)):
            pass
    assert failed.group_contains(RotationsUnreadable, match="without it the configured tokens")
