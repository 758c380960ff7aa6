"""`exai config` and `exai version`: what the daemon would run with."""

import json
from pathlib import Path
from typing import Any

import pytest

from exai.cli.config_command import run_config
from exai.cli.config_file import CommandLine
from exai.cli.exit_codes import ExitCode
from exai.cli.version_command import run_version

SECRETS = ("0123456789abcdef", "sk-provider", "sesame", "hunter2", "open-door", "pass-word")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Return a command line whose files hold every kind of secret."""
    monkeypatch.setenv("KEY", "sesame")
    config, servers = tmp_path / "exai.toml", tmp_path / "mcp.json"
    config.write_text(
        '[principals.bob]\ntoken = "0123456789abcdef"\n[providers.kimi]\napi_key = "sk-provider"\n'
        '[providers.x]\nbase_url = "https://user:pass-word@x.example/v1"\n'
    )
    config.chmod(0o600)
    arguments = ["--key=${KEY}", "--api-token", "hunter2", "--secret=open-door", "--level", "1"]
    box = {"command": "box", "args": arguments, "env": {"A": "hunter2"}, "exai": {"timeout_s": 5}}
    web = {
        "url": "https://me:pass-word@web.example/?level=1&key=hunter2",
        "headers": {"Authorization": "Bearer open-door", "X-Level": "1"},
    }
    servers.write_text(json.dumps({"mcpServers": {"box": box, "web": web}}))
    servers.chmod(0o600)
    return CommandLine(config=config, mcp_config=servers, port=5)


def shown(files: CommandLine, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert run_config(files, as_json=True) == ExitCode.OK
    out: dict[str, Any] = json.loads(capsys.readouterr().out)
    return out


def test_every_value_is_shown_with_its_source(
    files: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    values = shown(files, capsys)
    assert values["server.port"] == {"value": 5, "source": "--port"}
    assert values["server.host"] == {"value": "127.0.0.1", "source": "default"}
    assert values["principals.bob.token"] == {"value": "***", "source": str(files.config)}
    assert values["upstreams.box.timeout_s"] == {"value": 5, "source": str(files.mcp_config)}
    assert values["upstreams.box.args"]["value"] == [
        "--key=***",
        "--api-token",
        "***",
        "--secret=***",
        "--level",
        "1",
    ]
    assert values["upstreams.box.env"]["value"] == {"A": "***"}
    assert values["upstreams.web.headers"]["value"] == {"Authorization": "***", "X-Level": "***"}
    assert values["upstreams.web.url"]["value"] == "https://***@web.example/?level=1&key=***"


@pytest.mark.parametrize("as_json", [True, False])
def test_no_secret_is_shown(
    files: CommandLine, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    run_config(files, as_json=as_json)
    output = "".join(capsys.readouterr())
    assert "principals.bob.token" in output
    for secret in SECRETS:
        assert secret not in output


def test_for_people_it_is_one_line_a_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_config(CommandLine(state_dir=str(tmp_path)), as_json=False) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert f'state_dir = "{tmp_path}"  # --state-dir' in lines
    assert "server.port = 8079  # default" in lines
    assert lines[-1] == f"# the first start makes a token in {tmp_path}/token"


def test_what_is_wrong_is_told_instead(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_config(CommandLine(config=tmp_path / "no"), as_json=True) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert out == ""
    assert "cannot be read" in err


def test_the_version_is_told_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    run_version(as_json=True)
    version = json.loads(capsys.readouterr().out)
    assert version.keys() == {"exai", "python", "platform"}
    run_version(as_json=False)
    assert capsys.readouterr().out.startswith(f"exai {version['exai']} (Python ")
