"""The file of MCP servers, as other programs write it and as EXAI reads it."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exai.cli.config_keys import UPSTREAM_KEYS
from exai.cli.mcp_config import McpConfigFile
from exai.cli.mcp_foreign_settings import HEEDED
from exai.core.config import UpstreamConfig

SECRET = "7" * 40
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
        ({"a b": {"command": "x"}}, "the server name 'a b'"),
        ({"x" * 33: {"command": "x"}}, "the server name"),
        ({"": {"command": "x"}}, "the server name ''"),
        ({"box\n": {"command": "x"}}, "the server name 'box\\n'"),
        ({"box": []}, "box: expected an object with `command` or `url`"),
        ({"box": {}}, "box.command (or url) is missing"),
        ({"box": {"command": ""}}, "box.command: expected a text, got nothing"),
        ({"box": {"command": ["x"]}}, "box.command: expected a text"),
        ({"box": {"type": "http", "command": "x"}}, "box.url is missing: with its type it is"),
        ({"box": {"type": "stdio", "url": "http://x"}}, "box.command is missing: with type stdio"),
        ({"box": {"type": "stdio"}}, "box.command is missing"),
        ({"box": {"type": "http"}}, "box.url is missing"),
        ({"box": {"command": "x", "url": "http://x"}}, "box.command and url are both there"),
        ({"box": {"url": "http://x", "serverUrl": "http://y"}}, "box.serverUrl is another address"),
        ({"box": {"type": "sse", "url": "http://x/sse"}}, "streamable HTTP, often ending in /mcp"),
        (
            {"box": {"type": "ws", "url": "http://x"}},
            "one of stdio, http, streamable-http, got 'ws'",
        ),
        ({"box": {"type": 7, "command": "x"}}, "box.type: expected one of stdio"),
        ({"box": {"url": "ws://x"}}, "box.url: expected an http:// or https:// address"),
        ({"box": {"url": "/mcp"}}, "box.url: expected an http:// or https:// address"),
        ({"box": {"url": 5}}, "box.url: expected a text, got a number"),
        ({"box": {"url": "http://${NOPE}/"}}, "box.url: the variable NOPE is not set"),
        (
            {"box": {"url": "http://x", "headers": {"X-A": "1", "X-B": "${NOPE}"}}},
            "box.headers: X-B: the variable NOPE is not set",
        ),
        ({"box": {"url": "http://x", "headers": {"A B": "1"}}}, "'A B' is no name of a header"),
        ({"box": {"url": "http://x", "headers": {"A": "1\r\nB: 2"}}}, "A: a header holds no line"),
        ({"box": {"url": "http://x", "headers": ["A"]}}, "box.headers: expected a table of texts"),
        ({"box": {"command": "x", "timeout": "5s"}}, "box.timeout: expected a number"),
        ({"box": {"command": "x", "timeout": float("inf")}}, "at most a year"),
        ({"box": {"command": "x", "timeout": float("nan")}}, "at most a year"),
        ({"box": {"command": "x", "disabled": "${KEY}"}}, "true or false, got '${KEY}'"),
        ({"box": {"command": "x", "timeout": 0}}, "box.timeout: expected a number, more than 0"),
        ({"box": {"command": "x", "includeTools": "a"}}, "box.includeTools: expected a list"),
        ({"box": {"command": "x", "exai": {"prefix": "a.b"}}}, "box.exai.prefix: expected at most"),
        ({"box": {"command": "x", "exai": {"instance": "own"}}}, "one of principal, session, sha"),
        (
            {"box": {"command": "x", "exai": {"tools": {"t": {"name": "a.b"}}}}},
            "box.exai.tools.t.name: expected 1 to 64 of",
        ),
        (
            {"box": {"command": "x", "exai": {"tools": {"t": {"name": "a"}, "u": {"name": "a"}}}}},
            "box.exai.tools.u.name: 'a' is the name of t already",
        ),
        ({"box": {"command": "x", "args": "y"}}, "box.args: expected a list of texts"),
        ({"box": {"command": "x", "args": [1]}}, "box.args: expected a list of texts"),
        ({"box": {"command": "x", "args": ["\0"]}}, "NUL"),
        ({"box": {"command": "x", "env": {"A": 1}}}, "box.env: expected a table of texts"),
        ({"box": {"command": "x", "env": {"A=B": ""}}}, "box.env: the name of a variable"),
        ({"box": {"command": "x", "disabled": "yes"}}, "expected true or false, got 'yes'"),
        ({"box": {"command": "x", "args": ["${NOPE}"]}}, "box.args: the variable NOPE is not set"),
        ({"box": {"command": "${input:a}"}}, "box.command: ${input:a} asks a person"),
        ({"box": {"command": "${env:}"}}, "box.command: cannot read what follows `${`"),
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
        ('{\n  // mine\n  "servers": {}}', "line 2, column 3: comments are not supported"),
        ('{"servers": {}} /* mine */', "comments are not supported in this file: remove them"),
        ('{"servers": {"a": {"command": "x"} ,\n}}', "a comma after the last entry"),
        ('{"servers": {"a": {"args": ["x",]}}}', "a comma after the last entry"),
        ('{"servers": {"a": x}}', "line 1, column 19: Expecting value"),
        ("[]", 'expected {"mcpServers"'),
        ('{"server": {}}', 'expected {"mcpServers"'),
        ('{"servers": []}', 'expected {"mcpServers"'),
        ('{"servers": {"a": {}}, "mcpServers": {"b": {}}}', "both there, and differ"),
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
        ("envFile", "box.envFile has no effect here"),
        ("header", "did you mean headers?"),
        ("disabledTool", "did you mean disabledTools?"),
        ("arg", "did you mean args?"),
        ("timeout_s", "did you mean exai.timeout_s?"),
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


HTTP = "https://box.example/mcp"


@pytest.mark.parametrize(
    "entry",
    [
        {"url": HTTP},
        {"serverUrl": HTTP},
        {"httpUrl": HTTP},
        {"url": HTTP, "httpUrl": HTTP},
        {"type": "http", "url": HTTP},
        {"type": "streamable-http", "url": HTTP},
        {"type": "streamableHttp", "url": HTTP},
        {"type": "streamable_http", "url": HTTP},
        {"transport": "http", "url": HTTP},
    ],
)
def test_a_server_that_is_reached_by_http_is_written_in_many_ways(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    file = read(tmp_path, {"box": entry})
    assert (file.problems, file.warnings) == ([], [])
    assert file.servers == {"box": UpstreamConfig(url=HTTP)}
    assert file.written == {"box": {"url": HTTP}}


def test_variables_are_put_into_addresses_and_headers(tmp_path: Path) -> None:
    entry = {
        "url": "https://${HOST:-box.example}/mcp?key=${KEY}",
        "headers": {"Authorization": "Bearer ${env:KEY}", "X-Level": "1"},
    }
    file = read(tmp_path, {"box": entry})
    assert file.problems == []
    assert file.servers["box"].url == "https://box.example/mcp?key=sesame"
    assert file.servers["box"].headers == {"Authorization": "Bearer sesame", "X-Level": "1"}
    assert file.written["box"] == entry


def test_what_has_no_effect_for_one_kind_is_warned_of(tmp_path: Path) -> None:
    both = {
        "a": {"url": HTTP, "args": ["x"], "env": {}},
        "b": {"command": "x", "headers": {"A": "b"}},
    }
    file = read(tmp_path, both)
    assert [warning.partition(": ")[2] for warning in file.warnings] == [
        "a.args has no effect for a server that is reached by HTTP",
        "a.env has no effect for a server that is reached by HTTP",
        "b.headers has no effect for a server that a command starts",
    ]
    assert file.servers == {"a": UpstreamConfig(url=HTTP), "b": UpstreamConfig(command="x")}


def test_servers_of_vs_code_are_read(tmp_path: Path) -> None:
    servers = {"GitHub.com_x": {"type": "http", "url": HTTP}}
    inputs = [{"id": "key", "type": "promptString"}]
    for content in ({"servers": servers, "inputs": inputs}, {"servers": servers}):
        file = read_text(tmp_path, json.dumps(content))
        assert (file.problems, list(file.servers)) == ([], ["GitHub.com_x"])
    same = read_text(tmp_path, json.dumps({"servers": servers, "mcpServers": servers}))
    assert (same.problems, list(same.servers)) == ([], ["GitHub.com_x"])


def test_what_vs_code_would_ask_its_user_is_a_fault_with_its_key(tmp_path: Path) -> None:
    entry = {"type": "http", "url": HTTP, "headers": {"Authorization": "Bearer ${input:key}"}}
    (problem,) = read_text(tmp_path, json.dumps({"servers": {"box": entry}})).problems
    assert "box.headers: Authorization: ${input:key} asks a person" in problem
    assert "${env:NAME}" in problem


@pytest.mark.parametrize(
    ("written", "seconds", "unit"),
    [(30, 30.0, "seconds"), (999, 999.0, "seconds"), (1000, 1.0, "milliseconds")],
)
def test_a_timeout_of_other_programs_is_read_and_told(
    tmp_path: Path, written: int, seconds: float, unit: str
) -> None:
    file = read(tmp_path, {"box": {"command": "x", "timeout": written}})
    assert file.servers["box"].timeout_s == seconds
    assert f"box.timeout = {written} was read as {unit}" in file.warnings[0]
    own = {"command": "x", "timeout": written, "exai": {"timeout_s": 7}}
    file = read(tmp_path, {"box": own})
    assert (file.servers["box"].timeout_s, file.warnings) == (7.0, [])


@pytest.mark.parametrize(
    ("settings", "allow", "deny"),
    [
        ({"includeTools": ["a", "b"]}, ("a", "b"), ()),
        ({"includeTools": []}, (), ()),
        ({"includeTools": ["*"], "excludeTools": ["a"]}, ("*",), ("a",)),
        ({"disabledTools": ["a"], "excludeTools": ["b*"]}, ("*",), ("b[*]", "a")),
        ({"alwaysAllow": ["a"], "autoApprove": ["b"], "trust": True}, ("*",), ()),
        ({"includeTools": ["a"], "exai": {"allow": ["b*"]}}, ("b*",), ()),
        ({"excludeTools": ["a"], "exai": {"deny": ["b*"]}}, ("*",), ("a", "b*")),
    ],
)
def test_filters_of_other_programs_hold_and_approvals_are_none(
    tmp_path: Path, settings: dict[str, Any], allow: tuple[str, ...], deny: tuple[str, ...]
) -> None:
    file = read(tmp_path, {"box": {"command": "x", **settings}})
    assert (file.problems, file.warnings) == ([], [])
    assert (file.servers["box"].allow, file.servers["box"].deny) == (allow, deny)


def test_allowed_tools_is_read_as_a_filter_and_told(tmp_path: Path) -> None:
    file = read(tmp_path, {"box": {"command": "x", "allowedTools": ["a"]}})
    assert file.servers["box"].allow == ("a",)
    assert "box.allowedTools was read as all the tools that are offered" in file.warnings[0]


def test_names_and_instances_are_settings_of_exai(tmp_path: Path) -> None:
    own = {
        "prefix": "",
        "instance": "session",
        "idle_stop_s": 5,
        "tools": {"find": {"name": "look-up"}},
    }
    server = read(tmp_path, {"box": {"command": "x", "exai": own}}).servers["box"]
    assert (server.prefix, server.instance, server.idle_stop_s) == ("", "session", 5.0)
    assert server.tools == {"find": {"name": "look-up"}}


@pytest.mark.parametrize(
    ("entry", "key"),
    [
        ({"url": "https://me:letmein@x.example/"}, "url"),
        ({"url": "https://x.example/?api_key=letmein"}, "url"),
        ({"url": HTTP, "headers": {"Authorization": "Bearer letmein"}}, "headers: Authorization"),
        ({"url": HTTP, "headers": {"X-Api-Key": "letmein"}}, "headers: X-Api-Key"),
    ],
)
def test_a_secret_itself_stands_only_in_a_file_that_is_closed_to_others(
    tmp_path: Path, entry: dict[str, Any], key: str
) -> None:
    text, path = json.dumps({"mcpServers": {"box": entry}}), tmp_path / "mcp.json"
    (problem,) = read_text(tmp_path, text).problems
    assert problem.startswith(f"{path}: box.{key}: others can read the secret in this file: chmod")
    assert "letmein" not in problem
    path.chmod(0o600)
    assert McpConfigFile(path, ENVIRON).problems == []
    path.chmod(0o644)
    path.write_text(text.replace("letmein", "${KEY}"))
    assert McpConfigFile(path, ENVIRON).problems == []


def test_a_disabled_server_may_be_one_that_cannot_be_reached(tmp_path: Path) -> None:
    entry = {"type": "sse", "url": "http://${NOPE}/sse", "disabled": True}
    file = read(tmp_path, {"box": entry})
    assert (file.problems, file.servers["box"].disabled) == ([], True)


TEXTS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["${KEY}", "${NO:-a}", "${input:a}", "${", "http://a/", "http://[", "sse", "\0"]
    ),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 10**6), st.floats(), TEXTS),
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(TEXTS, below, max_size=3)),
    max_leaves=5,
)
OWN = st.dictionaries(st.sampled_from(sorted(UPSTREAM_KEYS)), VALUES, max_size=4)
ENTRIES = st.dictionaries(
    st.sampled_from([*sorted(HEEDED), "command", "args", "env", "cwd", "headers", "exai"]),
    st.one_of(VALUES, OWN),
    max_size=6,
)


@given(st.one_of(VALUES, ENTRIES))
@settings(max_examples=150, deadline=None)
def test_whatever_an_entry_holds_it_is_read_or_refused_and_shows_no_variable(entry: Any) -> None:
    with TemporaryDirectory() as directory:
        path = Path(directory) / "mcp.json"
        path.write_text(json.dumps({"mcpServers": {"box": entry}}))
        file = McpConfigFile(path, {"KEY": SECRET})
    assert len(file.servers) == (0 if file.problems else 1)
    assert SECRET not in "\n".join(file.problems + file.warnings)
