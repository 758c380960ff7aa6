"""What a child sees of the daemon's environment."""

import pytest

from exai.processes.environment import child_environment


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_CACHE_HOME", "SSL_CERT_FILE"]
)
def test_what_every_program_needs_is_handed_on(name: str) -> None:
    assert child_environment({name: "value"}, {}) == {name: "value"}


@pytest.mark.parametrize(
    "name", ["EXAI_WS_TOKEN", "KIMI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "LD_PRELOAD"]
)
def test_keys_and_settings_of_the_daemon_are_not(name: str) -> None:
    assert child_environment({name: "value"}, {}) == {}


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "no_proxy"])
def test_a_proxy_is_handed_on_without_a_password_only(name: str) -> None:
    assert child_environment({name: "http://proxy:3128"}, {}) == {name: "http://proxy:3128"}
    assert child_environment({name: "http://me:secret@proxy:3128"}, {}) == {}


def test_an_exported_function_is_not_handed_on() -> None:
    assert child_environment({"LC_ALL": "() { :; }; echo"}, {}) == {}


def test_its_own_variables_win_whatever_they_are() -> None:
    own = {"HOME": "/elsewhere", "API_KEY": "its own"}
    assert child_environment({"HOME": "/home/me", "TERM": "xterm"}, own) == {**own, "TERM": "xterm"}
