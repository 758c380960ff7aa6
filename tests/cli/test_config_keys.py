"""Raw values and keys, whatever they are: a typed value or a sentence, never a crash."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exai.cli.config_keys import KEYS, UPSTREAM_KEYS, Key, Misfit, convert, dotted, keys_of
from exai.cli.environment import NO_EFFECT, VARIABLES
from exai.cli.mcp_config import McpConfigFile
from exai.core.config import Secret, ServerConfig

ANY_KEY = st.sampled_from([*KEYS.values(), *UPSTREAM_KEYS.values()])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
TOML = JSON | st.just(date(2020, 1, 1)) | st.just(float("nan")) | st.just(float("inf"))


def read(raw: Any, key: Key, *, is_text: bool) -> Any:
    return convert(raw, key, is_text=is_text, directory=Path("/here"), reveal=str)


@given(key=ANY_KEY, raw=TOML)
def test_every_value_of_a_file_is_read_or_refused(key: Key, raw: Any) -> None:
    try:
        read(raw, key, is_text=False)
    except Misfit as misfit:
        assert str(misfit).startswith("expected ")


@given(key=ANY_KEY, raw=st.text())
def test_every_text_of_a_variable_is_read_or_refused(key: Key, raw: str) -> None:
    try:
        read(raw, key, is_text=True)
    except Misfit as misfit:
        assert str(misfit).startswith("expected ")


@given(raw=TOML.filter(lambda raw: not isinstance(raw, str)))
def test_a_secret_that_does_not_fit_is_not_shown(raw: Any) -> None:
    with pytest.raises(Misfit) as misfit:
        read(raw, KEYS["principals", "NAME", "token"], is_text=False)
    assert str(misfit.value).startswith("expected a secret, got ")
    assert len(str(misfit.value)) < 60


PIECES = st.sampled_from(
    ["command", "args", "env", "cwd", "disabled", "exai", "type", "url", "tools", "timeout_s"]
)
SERVERS = st.dictionaries(
    st.sampled_from(["box", "a-1", "A", "a__b"]) | st.text(),
    JSON | st.dictionaries(PIECES, JSON | st.dictionaries(PIECES, JSON), max_size=5),
    max_size=3,
)


@given(servers=SERVERS)
def test_every_file_of_servers_is_read_or_refused(servers: Any, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    file = McpConfigFile(path, {})
    assert file.problems or file.servers.keys() == servers.keys()
    assert file.servers.keys() == file.written.keys()


def test_every_variable_sets_a_key_and_no_key_has_two_but_for_names_of_old() -> None:
    assert not VARIABLES.keys() & NO_EFFECT.keys()
    for path in VARIABLES.values():
        assert path in KEYS or (path[0], "NAME", path[2]) in KEYS
    paths = list(VARIABLES.values())
    twice = {dotted(path) for path in paths if paths.count(path) > 1}
    assert twice == {"providers.kimi.api_key", "providers.glm.api_key"}


def test_keys_of_a_section_have_its_defaults() -> None:
    defaults = {key.path: key.default for key in keys_of(ServerConfig)}
    assert defaults[("port",)] == ServerConfig().port
    assert len(defaults) == len(ServerConfig.__struct_fields__)


def test_a_secret_is_wrapped_before_anybody_can_print_it() -> None:
    value = read("sesame", KEYS["principals", "NAME", "token"], is_text=False)
    assert isinstance(value, Secret)
    assert repr(value) == "Secret(***)"
