"""`docs/client.md`: its examples run as they stand, and its tables name what there is."""

import asyncio
import inspect
import re
import sys
import textwrap
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

import exai.client
from exai.client import CallError, CallResult, ClientError, DaemonClient
from exai.core.config import ProviderConfig, Secret
from exai.testing.running_daemon import TOKEN, daemon_config, running_daemon
from exai.testing.scripted_provider import ScriptedProvider, answers

PAGE = (Path(__file__).parents[2] / "docs/client.md").read_text("utf-8")
PROGRAM, *EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


async def run_inside(example: str, **names: Any) -> dict[str, Any]:
    """Run lines that stand inside a coroutine, and return their names."""
    body = textwrap.indent(example, "    ")
    scope = {"DaemonClient": DaemonClient, **names}
    exec(f"async def example():\n{body}\n    return locals()", scope)
    found: dict[str, Any] = await scope["example"]()
    return found


async def test_the_examples_do_what_the_page_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with ScriptedProvider() as service:
        service.script(answers("1, ", "2, 3."))
        provider = ProviderConfig(base_url=service.base_url, api_key=Secret("k"), models=("m",))
        config = daemon_config(tmp_path, providers={"scripted": provider})
        async with running_daemon(config) as daemon:
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", PROGRAM, daemon.url, TOKEN), stdout=PIPE
            )
            assert (await program.communicate())[0] == b"hello\n"
            async with DaemonClient(daemon.url, token=TOKEN) as client:
                fails, streams, repeats, trusts = EXAMPLES
                await run_inside(fails, client=client)
                assert capsys.readouterr().out.startswith("VALIDATION_ERROR ")
                assert "".join((await run_inside(streams, client=client))["pieces"]) == "1, 2, 3."
                assert (await run_inside(repeats, client=client))["result"].text == "once"
                await run_inside(trusts, client=client, token=TOKEN)


def test_the_page_names_all_that_there_is() -> None:
    for kind in (CallResult, CallError):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in PAGE, field
    for name, member in inspect.getmembers(DaemonClient):
        if not name.startswith("_") and inspect.isfunction(member):
            assert re.search(rf"\b{name}\b", PAGE), name
    for name in inspect.signature(DaemonClient).parameters:
        if name not in ("ping_interval_s", "client_name", "on_connection"):
            assert re.search(rf"\b{name}\b", PAGE), name


def test_every_error_of_the_library_is_in_the_table() -> None:
    errors = {n for n in exai.client.__all__ if issubclass(vars(exai.client)[n], Exception)}
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M))
    assert errors - {ClientError.__name__} <= rows
