"""The file of MCP servers, as other programs write it and as EXAI reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from exai.cli.mcp_config import McpConfigFile
from exai.core.config import UpstreamConfig

ENVIRON = {"KEY": "sesame", "EMPTY": ""}


def read(tmp_path: Path, servers: Any) -> McpConfigFile:
    return read_text(tmp_path, json.dumps({"mcpServers": servers}))


def read_text(tmp_path: Path, text: str | bytes) -> McpConfigFile:
    path = tmp_path / "mcp.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return McpConfigFile(path, ENVIRON)


def test_a_server_of_other_programs_is_read_as_it_is(tmp_path: Path) -> None:
    entry = {
        "type": "stdio",
        "command": "npx",
        "args": ["-y", "box"],
        "env": {"LEVEL": "1"},
        "cwd": "work",
        "disabled": False,
    }
    file = read(tmp_path, {"box": entry})
    assert file.servers == {
        "box": UpstreamConfig(
            command="npx", args=("-y", "box"), env={"LEVEL": "1"}, cwd=tmp_path / "work"
        )
    }
    assert (file.problems, file.warnings) == ([], [])


def test_settings_of_exai_stand_under_one_key(tmp_path: Path) -> None:
    tools = {"search": {"share": "all", "cache_ttl_s": 60, "idempotent": True}}
    own = {
        "max_inflight": 2,
        "timeout_s": 5,
        "start_timeout_s": 9,
        "trust_annotations": False,
        "tools": tools,
    }
    server = read(tmp_path, {"box": {"command": "box", "exai": own}}).servers["box"]
    assert (server.max_inflight, server.timeout_s, server.start_timeout_s) == (2, 5.0, 9.0)
    assert not server.trust_annotations
    assert server.tools == {"search": {"share": "all", "cache_ttl_s": 60.0, "idempotent": True}}


def test_a_server_may_keep_the_names_of_its_tools(tmp_path: Path) -> None:
    file = read(tmp_path, {"box": {"command": "box", "exai": {"prefix": ""}}})
    assert file.problems == []
    assert file.servers["box"].prefix == ""


def test_variables_are_put_in_wherever_a_text_stands(tmp_path: Path) -> None:
    entry = {
        "command": "${SHELL:-sh}",
        "args": ["--key=${KEY}", "${env:KEY}", "${EMPTY:-full}", "${EMPTY}", "$${KEY} $KEY"],
        "env": {"A": "${KEY}"},
    }
    file = read(tmp_path, {"box": entry})
    assert file.problems == []
    server = file.servers["box"]
    assert server.command == "sh"
    assert server.args == ("--key=sesame", "sesame", "full", "", "${KEY} $KEY")
    assert server.env == {"A": "sesame"}
    assert file.written["box"]["args"] == entry["args"]


def test_a_disabled_server_needs_no_variables(tmp_path: Path) -> None:
    entry = {"command": "box", "disabled": True, "env": {"A": "${NOPE}"}}
    file = read(tmp_path, {"box": entry})
    assert file.problems == []
    assert file.servers["box"].disabled


@pytest.mark.parametrize(
    ("servers", "said"),
    [
        ({"a__b": {"command": "x"}}, "the server name 'a__b'"),
        ({"Box": {"command": "x"}}, "the server name 'Box'"),
        ({"x" * 33: {"command": "x"}}, "the server name"),
        ({"": {"command": "x"}}, "the server name ''"),
        ({"box\n": {"command": "x"}}, "the server name 'box\\n'"),
        ({"box": []}, "box: expected an object with `command`"),
        ({"box": {}}, "box.command is missing"),
        ({"box": {"command": ""}}, "box.command: expected a text, got nothing"),
        ({"box": {"command": ["x"]}}, "box.command: expected a text"),
        ({"box": {"url": "http://x"}}, "box: only servers with a `command` (stdio)"),
        ({"box": {"type": "http", "command": "x"}}, "box: only servers with a `command` (stdio)"),
        ({"box": {"command": "x", "args": "y"}}, "box.args: expected a list of texts"),
        ({"box": {"command": "x", "args": [1]}}, "box.args: expected a list of texts"),
        ({"box": {"command": "x", "args": ["\0"]}}, "NUL"),
        ({"box": {"command": "x", "env": {"A": 1}}}, "box.env: expected a table of texts"),
        ({"box": {"command": "x", "env": {"A=B": ""}}}, "box.env: the name of a variable"),
        ({"box": {"command": "x", "disabled": "yes"}}, "expected true or false, got 'yes'"),
        ({"box": {"command": "x", "args": ["${NOPE}"]}}, "box.args: the variable NOPE is not set"),
        ({"box": {"command": "${input:a}"}}, "box.command: cannot read what follows `${`"),
        ({"box": {"command": "x", "exai": []}}, "box.exai: expected an object"),
        ({"box": {"command": "x", "exai": {"max_inflght": 1}}}, "did you mean max_inflight?"),
        ({"box": {"command": "x", "exai": {"max_inflight": 0}}}, "at least 1, got 0"),
        ({"box": {"command": "x", "exai": {"tools": {"t": {"share": "al"}}}}}, "tools.t.share"),
        ({"box": {"command": "x", "exai": {"tools": {"t": {"ttl": 1}}}}}, "tools.t.ttl is not"),
        ({"box": {"command": "x", "exai": {"tools": {"t": 1}}}}, "expected a table of tables"),
    ],
)
def test_a_fault_is_named_with_its_server_and_key(
    tmp_path: Path, servers: dict[str, Any], said: str
) -> None:
    file = read(tmp_path, servers)
    assert len(file.problems) == 1
    assert file.problems[0].startswith(f"{tmp_path / 'mcp.json'}: ")
    assert said in file.problems[0]
    assert file.servers == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"mcpServers": {,}}', "line 1, column 17"),
        ("[]", 'expected {"mcpServers"'),
        ('{"servers": {}}', 'expected {"mcpServers"'),
        ('{"mcpServers": []}', 'expected {"mcpServers"'),
        ('{"mcpServers": {"a": {"command": "x"}, "a": {"command": "y"}}}', "two entries"),
        (b'\xff\xfe\xff{"mcpServers": {}}', "UTF-8"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_file_that_is_no_such_file_is_a_fault(
    tmp_path: Path, text: str | bytes, said: str
) -> None:
    assert said in "\n".join(read_text(tmp_path, text).problems)


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    assert "cannot be read" in McpConfigFile(tmp_path / "mcp.json", {}).problems[0]


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    assert read_text(tmp_path, b'\xef\xbb\xbf{"mcpServers": {}}').problems == []


@pytest.mark.parametrize(
    ("key", "warning"),
    [
        ("autoApprove", "box.autoApprove has no effect here"),
        ("arg", "did you mean args?"),
        ("timeout", "did you mean exai.timeout_s?"),
        ("max_inflight", "did you mean exai.max_inflight?"),
    ],
)
def test_settings_of_other_programs_are_warned_of(tmp_path: Path, key: str, warning: str) -> None:
    file = read(tmp_path, {"box": {"command": "x", key: 1}})
    assert file.problems == []
    assert warning in file.warnings[0]


def test_a_fault_shows_no_variable_that_was_put_in(tmp_path: Path) -> None:
    entry = {"command": "x", "args": ["${KEY}", 5], "env": {"A": "${KEY}", "B": 1}}
    assert "sesame" not in "\n".join(read(tmp_path, {"box": entry}).problems)
