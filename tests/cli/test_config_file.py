"""The configuration as an operator meets it: what is read, what wins, and what is said."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exai.cli.config_file import CommandLine, ConfigProblems, LoadedConfig, load_config
from exai.core.config import KNOWN_PROVIDERS, Config, ServerConfig

TOKEN = "0123456789abcdef"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., LoadedConfig]:
    """Load a configuration from a TOML text and variables, in a directory of its own."""

    def load(
        toml: str | None = None, mode: int = 0o600, for_client: bool = False, **environ: str
    ) -> LoadedConfig:
        path = tmp_path / "exai.toml"
        if toml is not None:
            path.write_text(toml)
            path.chmod(mode)
        command_line = CommandLine(config=path if toml is not None else None)
        return load_config(command_line, environ, tmp_path, for_client=for_client)

    return load


Load = Callable[..., LoadedConfig]


def problems(load: Load, *arguments: Any, **environ: Any) -> str:
    with pytest.raises(ConfigProblems) as wrong:
        load(*arguments, **environ)
    return str(wrong.value)


def test_without_anything_all_is_default(load: Load, home: Path) -> None:
    loaded = load()
    assert loaded.config == Config(state_dir=home / ".local/state/exai")
    assert loaded.source_of("server.port") == "default"
    assert loaded.warnings == []


def test_command_line_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    path = tmp_path / "exai.toml"
    path.write_text('[server]\nport = 1\nhttp_port = 2\nhost = "::1"\n')
    loaded = load_config(
        CommandLine(config=path, port=11),
        {"EXAI_WS_PORT": "21", "EXAI_SERVER_HTTP_PORT": "22"},
        tmp_path,
    )
    server = loaded.config.server
    assert (server.port, server.http_port, server.host) == (11, 22, "::1")
    assert server.drain_s == ServerConfig().drain_s
    assert loaded.sources == {
        "server.port": "--port",
        "server.http_port": "EXAI_SERVER_HTTP_PORT",
        "server.host": str(path),
    }


def test_the_file_may_set_every_kind_of_value(load: Load, tmp_path: Path) -> None:
    config = load(
        """
        state_dir = "state"
        [server]
        allowed_hosts = ["exai.example"]
        drain_s = 3
        [local]
        enabled = false
        model_path = "~/model.gguf"
        """
    ).config
    assert config.state_dir == tmp_path / "state"
    assert config.server.allowed_hosts == ("exai.example",)
    assert config.server.drain_s == 3.0
    assert config.local.model_path == Path("~/model.gguf").expanduser()
    assert not config.local.enabled


def test_variables_are_read_as_the_key_asks(load: Load) -> None:
    config = load(
        EXAI_SERVER_ALLOWED_ORIGINS="https://a.example, https://b.example",
        EXAI_LOCAL_ENABLED="false",
        EXAI_WS_PROGRESS_INTERVAL_SECS="2.5",
        EXAI_STATE_DIR="here",
        MAX_CONNECTIONS_PER_IP="7",
    ).config
    assert config.server.allowed_origins == ("https://a.example", "https://b.example")
    assert not config.local.enabled
    assert config.server.progress_interval_s == 2.5
    assert config.state_dir.is_absolute()
    assert config.server.max_connections_per_address == 7


def test_an_empty_variable_is_one_that_is_not_set(load: Load) -> None:
    loaded = load(EXAI_WS_PORT="", KIMI_API_KEY="", DEFAULT_MODEL="")
    assert loaded.config.server.port == 8079
    assert loaded.sources == {}


def test_an_empty_token_does_not_pass_as_none(load: Load) -> None:
    assert "EXAI_WS_TOKEN: principals.default.token" in problems(load, EXAI_WS_TOKEN="")


def test_the_token_variable_is_the_default_principal(load: Load) -> None:
    loaded = load('[principals.other]\ntoken = "another-token-of-16"', EXAI_WS_TOKEN=TOKEN)
    default, other = loaded.config.principals["default"], loaded.config.principals["other"]
    assert default.token.reveal() == TOKEN
    assert (default.may_rotate, other.may_rotate) == (True, False)
    assert loaded.source_of("principals.default.token") == "EXAI_WS_TOKEN"


def test_a_known_provider_needs_only_its_key(load: Load) -> None:
    loaded = load(MOONSHOT_API_KEY="m", GLM_API_KEY="g", ZHIPUAI_API_KEY="z")
    kimi, glm = loaded.config.providers["kimi"], loaded.config.providers["glm"]
    assert kimi.api_key is not None
    assert kimi.api_key.reveal() == "m"
    assert kimi.base_url == KNOWN_PROVIDERS["kimi"].base_url
    assert glm.api_key is not None
    assert glm.api_key.reveal() == "g"
    assert KNOWN_PROVIDERS["kimi"].api_key is None


def test_any_provider_may_be_named(load: Load) -> None:
    provider = load(
        '[providers.groq]\nbase_url = "https://api.groq.com/v1"\napi_key = "env:GROQ"',
        GROQ="opens",
    ).config.providers["groq"]
    assert provider.base_url == "https://api.groq.com/v1"
    assert provider.api_key is not None
    assert provider.api_key.reveal() == "opens"


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[server]\nprot = 1", "server.prot is not a setting; did you mean server.port?"),
        ("port = 1", "port is not a setting; did you mean server.port?"),
        ("[server]\ncall_timeout_s = 1", "did you mean limits.call_timeout_s?"),
        ("[limits]\ncall_timeout = 1", "did you mean limits.call_timeout_s?"),
        ("[sever]\nport = 1", "sever is not a setting"),
        ("[principals.bob]\ntokn = 'x'", "did you mean principals.bob.token?"),
        ("[server.port]\nx = 1", "server.port: expected a whole number from 0 to 65535, got"),
        ("[server]\nport = '1'", "got '1'"),
        ("[server]\nport = true", "got true"),
        ("[server]\nport = 70000", "got 70000"),
        ('state_dir = "a\\u0000b"', "state_dir: expected a path, got"),
        ("[server]\nhost = ''", "server.host: expected a text, got nothing"),
        ("[limits]\ncall_timeout_s = '3m'", "expected a number of seconds, more than 0, got '3m'"),
        ("[limits]\ncall_timeout_s = inf", "limits.call_timeout_s: expected"),
        ("[limits]\ncall_timeout_s = nan", "limits.call_timeout_s: expected"),
        ("[limits]\nglobal_max_inflight = 0", "expected a whole number, at least 1, got 0"),
        ("[server]\nallowed_hosts = 'a'", "expected a list of texts, got 'a'"),
        ("[server]\nwebsocket_library = 'x'", "expected one of auto, picows, websockets, got 'x'"),
        ("server = 1", "server: expected a table"),
        ("principals = 1", "principals: expected a table"),
        ("[principals]\nbob = 1", "principals.bob: expected a table"),
        ("[principals.bob]\n", "principals.bob.token is missing"),
        ("[principals.'b b']\ntoken = '0123456789abcdef'", "the principal name 'b b'"),
        ("[providers.x]\n", "providers.x.base_url is missing"),
        ("[providers.x]\nbase_url = 'ftp://x'", "expected an http:// or https:// address"),
        ("[providers.local]\nbase_url = 'http://x'", "see [local]"),
        ("[upstreams.x]\ncommand = 'x'", "see --mcp-config"),
        ("[server]\nport = 5\nhttp_port = 5", "server.port and server.http_port are both 5"),
        ("[limits]\nglobal_max_waiting = 64", "one session could shut out all others"),
        ("[server\n", "at line 1, column 8"),
        ("[principals.bob]\ntoken = 5", "principals.bob.token: expected a secret, got a number"),
    ],
)
def test_a_fault_is_named_with_its_place_and_what_is_expected(
    load: Load, toml: str, said: str
) -> None:
    assert said in problems(load, toml)


def test_all_faults_are_told_at_once_and_in_order(load: Load, tmp_path: Path) -> None:
    said = problems(load, "[server]\nport = -1\nprot = 1", EXAI_WS_MAX_BYTES="much")
    path = re.escape(str(tmp_path / "exai.toml"))
    assert re.fullmatch(
        rf"{path}: server\.port: .*\n{path}: server\.prot .*\nEXAI_WS_MAX_BYTES: .*", said
    )


def test_a_file_that_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigProblems, match="cannot be read"):
            load_config(CommandLine(config=path), {}, tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigProblems, match="UTF-8"):
        load_config(CommandLine(config=tmp_path / "latin.toml"), {}, tmp_path)


def test_the_file_is_found_in_the_users_configuration(load: Load, home: Path) -> None:
    directory = home / ".config/exai"
    directory.mkdir(parents=True)
    (directory / "exai.toml").write_text("[server]\nport = 5")
    (directory / "mcp.json").write_text('{"mcpServers": {"box": {"command": "box"}}}')
    config = load().config
    assert config.server.port == 5
    assert config.upstreams["box"].command == "box"


def test_a_variable_may_name_the_files(load: Load, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("[server]\nport = 5")
    (tmp_path / "servers.json").write_text('{"mcpServers": {"box": {"command": "box"}}}')
    config = load(EXAI_CONFIG="other.toml", EXAI_MCP_CONFIG="servers.json").config
    assert (config.server.port, list(config.upstreams)) == (5, ["box"])


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        ({"EXAI_WS_PROT": "1"}, "EXAI_WS_PROT has no effect: no such variable; did you mean "),
        ({"EXAI_SERVER_PORT": "1"}, "did you mean EXAI_WS_PORT?"),
        ({"EXAI_NONSENSE_OF_ALL": "1"}, "EXAI_NONSENSE_OF_ALL has no effect: no such variable"),
        ({"USE_PER_SESSION_SEMAPHORES": "false"}, "the limit of every session always holds"),
    ],
)
def test_a_variable_without_effect_is_warned_of(
    load: Load, environ: dict[str, str], warning: str
) -> None:
    assert warning in "\n".join(load(**environ).warnings)


def test_other_programs_variables_are_left_alone(load: Load) -> None:
    assert load(PATH="/bin", _EXAI_COMPLETE="x").warnings == []


def test_a_weak_token_is_a_fault_that_does_not_show_it(load: Load) -> None:
    said = problems(load, EXAI_WS_TOKEN="weak-secret")
    assert "at least 16 characters" in said
    assert "weak-secret" not in said


@pytest.mark.parametrize(
    "token", ["a token with spaces", "töken-töken-töken", "tab\ttab-tab-tab-tab"]
)
def test_a_token_that_no_header_can_carry_is_a_fault(load: Load, token: str) -> None:
    said = problems(load, EXAI_WS_TOKEN=token)
    assert "principals.default.token" in said
    assert token not in said


def test_two_principals_with_one_token_are_a_fault(load: Load) -> None:
    toml = f"[principals.a]\ntoken = '{TOKEN}'\n[principals.b]\ntoken = '{TOKEN}'"
    assert "a has the same token" in problems(load, toml)


def test_open_access_needs_a_loopback_bind(load: Load) -> None:
    for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1"):
        assert load(EXAI_AUTH="none", EXAI_WS_HOST=host).config.auth.mode == "none"
    for host in ("0.0.0.0", "::", "10.0.0.1", "exai.example"):
        assert "is refused" in problems(load, EXAI_AUTH="none", EXAI_WS_HOST=host)


def test_open_access_is_warned_of(load: Load) -> None:
    warnings = load(EXAI_AUTH="none", EXAI_WS_TOKEN=TOKEN).warnings
    assert [w.partition(":")[0] for w in warnings] == ["auth.mode = none", "auth.mode = none"]
    assert "token of default" in warnings[1]


def test_a_file_that_others_can_read_may_hold_no_secret(load: Load, tmp_path: Path) -> None:
    toml = f"[principals.a]\ntoken = '{TOKEN}'\n[providers.kimi]\napi_key = 'k'"
    for mode in (0o644, 0o640, 0o604, 0o620):
        said = problems(load, toml, mode)
        assert said.count(f"chmod 600 {tmp_path / 'exai.toml'}") == 2
        assert TOKEN not in said
    assert load(toml, 0o600).config.principals["a"].token.reveal() == TOKEN


def test_a_file_that_others_can_read_may_refer_to_secrets(load: Load) -> None:
    toml = "[principals.a]\ntoken = 'env:TOKEN_A'"
    assert load(toml, 0o644, TOKEN_A=TOKEN).config.principals["a"].token.reveal() == TOKEN


def test_a_secret_may_stand_in_a_private_file_beside_the_configuration(
    load: Load, tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN + "\n")
    secret.chmod(0o600)
    toml = "[principals.a]\ntoken = 'file:token'"
    assert load(toml, 0o644).config.principals["a"].token.reveal() == TOKEN
    assert load(EXAI_WS_TOKEN="file:token").config.principals["default"].token.reveal() == TOKEN
    secret.chmod(0o640)
    assert f"chmod 600 {secret}" in problems(load, toml, 0o644)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("env:NOPE", "the variable 'NOPE' is not set"),
        ("env:EMPTY", "the variable 'EMPTY' is empty"),
        ("env:ENV", "another reference"),
        ("file:nope", "No such file"),
        ("file:.", "Is a directory"),
        ("file:empty", "is empty"),
        ("file:binary", "is not UTF-8"),
        ("file:lines", "control characters"),
    ],
)
def test_a_reference_that_leads_nowhere_is_a_fault(
    load: Load, tmp_path: Path, reference: str, said: str
) -> None:
    tmp_path.chmod(0o700)
    for name, content in (("empty", b"\n"), ("binary", b"\xff" * 20), ("lines", b"a\nb" * 20)):
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    text = problems(load, f"[principals.a]\ntoken = '{reference}'", EMPTY="", ENV="env:ENV")
    assert "principals.a.token: " in text
    assert said in text


def test_a_client_needs_none_of_the_daemons_secrets(load: Load) -> None:
    toml = """
        [server]
        port = 5
        [principals.a]
        token = 'env:ONLY_THE_DAEMON_HAS_IT'
        [providers.kimi]
        api_key = 'file:/nowhere'
        """
    loaded = load(toml, for_client=True, EXAI_MCP_CONFIG="/nowhere")
    assert loaded.config.server.port == 5
    assert loaded.config.principals == {}


def test_no_secret_shows_in_the_loaded_configuration(load: Load) -> None:
    assert TOKEN not in repr(load(EXAI_WS_TOKEN=TOKEN))


def test_without_a_home_the_state_directory_must_be_named(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platformdirs.user_state_path", lambda *_, **__: Path("~/state/exai"))
    assert "set --state-dir" in problems(load)
    assert load(EXAI_STATE_DIR="/somewhere").config.state_dir == Path("/somewhere")


def test_a_home_that_is_not_there_is_a_name_like_any_other(load: Load, tmp_path: Path) -> None:
    assert load("state_dir = '~nobody-of-that-name/x'").config.state_dir == (
        tmp_path / "~nobody-of-that-name/x"
    )
