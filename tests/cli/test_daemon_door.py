"""Which daemon is called, and with which token."""

from pathlib import Path

import pytest

from exai.cli.address_file import find_address, leave_address, remove_address
from exai.cli.config_file import CommandLine, load_config
from exai.cli.daemon_door import Door, NoDoor, find_door
from exai.cli.state_token import make_state_token, token_path

LEFT = "ws://127.0.0.1:7777/"
TOKEN = "0123456789abcdef"


@pytest.fixture
def state_dir(home: Path) -> Path:
    """Return the default state directory of a daemon that runs."""
    state_dir = home / ".local/state/exai"
    make_state_token(state_dir)
    leave_address(state_dir, LEFT, "http://127.0.0.1:7778/")
    return state_dir


def door(
    url: str | None = None,
    principal: str | None = None,
    toml: Path | None = None,
    state_dir: str | None = None,
    **environ: str,
) -> Door:
    command_line = CommandLine(config=toml, state_dir=state_dir)
    return find_door(load_config(command_line, environ, for_client=True), url, principal)


def test_the_address_that_was_left_is_taken_where_none_is_set(state_dir: Path) -> None:
    token = token_path(state_dir).read_text().strip()
    assert door() == Door(LEFT, token, f"{state_dir}/token", state_dir)


def test_what_is_set_goes_before_what_was_left(state_dir: Path) -> None:
    assert door(EXAI_WS_PORT="5").url == "ws://127.0.0.1:5/"
    assert door(EXAI_WS_HOST="::1").url == "ws://[::1]:8079/"
    assert door("ws://127.0.0.1:6", EXAI_WS_PORT="5").url == "ws://127.0.0.1:6"


def test_a_port_that_the_system_chooses_is_not_set(state_dir: Path) -> None:
    assert door(EXAI_WS_PORT="0").url == LEFT


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "ws://127.0.0.1:8079/"), ("::", "ws://[::1]:8079/")]
)
def test_a_daemon_that_listens_everywhere_is_called_on_this_machine(host: str, url: str) -> None:
    assert door(EXAI_WS_HOST=host).url == url


def test_without_anything_the_default_is_tried_without_a_token(home: Path) -> None:
    nothing = door()
    assert (nothing.url, nothing.token) == ("ws://127.0.0.1:8079/", None)
    assert str(home / ".local/state/exai/token") in nothing.token_place


def test_the_token_that_was_made_here_goes_to_no_other_machine(state_dir: Path) -> None:
    assert door("ws://127.0.0.1:5/").token is not None
    away = door("ws://exai.example:8079/")
    assert away.token is None
    assert "EXAI_WS_TOKEN" in away.token_place
    assert door("ws://exai.example:8079/", state_dir=str(state_dir)).token is not None


def test_the_variables_token_goes_before_the_one_that_was_made(state_dir: Path) -> None:
    assert door(EXAI_WS_TOKEN=TOKEN) == Door(LEFT, TOKEN, "EXAI_WS_TOKEN")
    assert door("ws://exai.example:8079/", EXAI_WS_TOKEN=TOKEN).token == TOKEN


def test_of_several_principals_one_is_chosen_by_name(tmp_path: Path) -> None:
    toml = tmp_path / "exai.toml"
    toml.write_text(f'[principals.a]\ntoken = "{TOKEN}-a"\n[principals.b]\ntoken = "{TOKEN}-b"\n')
    toml.chmod(0o600)
    assert door(toml=toml, principal="b") == Door("ws://127.0.0.1:8079/", f"{TOKEN}-b", str(toml))
    assert door(toml=toml, EXAI_WS_TOKEN=TOKEN).token == TOKEN
    with pytest.raises(NoDoor, match="--as: a, b"):
        door(toml=toml)
    with pytest.raises(NoDoor, match="'c'"):
        door(toml=toml, principal="c")


def test_a_token_that_others_can_read_is_not_sent(state_dir: Path) -> None:
    token_path(state_dir).chmod(0o644)
    with pytest.raises(NoDoor, match="chmod 600"):
        door()


def test_an_address_is_private_and_goes_with_its_daemon(state_dir: Path) -> None:
    path = state_dir / "address.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text().replace('"pid":', '"pid":1'))
    remove_address(state_dir)
    assert find_address(state_dir) is not None
    leave_address(state_dir, LEFT, "")
    remove_address(state_dir)
    assert find_address(state_dir) is None


@pytest.mark.parametrize("content", ["", "{}", "[", '{"pid":"x"}'])
def test_an_address_that_cannot_be_read_is_none(state_dir: Path, content: str) -> None:
    (state_dir / "address.json").write_text(content)
    assert door().url == "ws://127.0.0.1:8079/"
