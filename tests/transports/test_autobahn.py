"""The cases of the Autobahn test suite, against the connections that the daemon makes.

Sections 1 to 7 and 10; 8 has no cases, 9 measures limits that the daemon chooses itself,
12 and 13 are about compression, which it does not offer.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import kosoku
import pytest

from exai.core.config import ServerConfig
from exai.transports import on_picows, on_websockets
from exai.transports.listening import listening_socket
from exai.transports.upgrade_rules import UpgradeRules
from exai.transports.websocket import Listen

LISTEN: dict[str, Listen] = {"picows": on_picows.listen, "websockets": on_websockets.listen}
SECTIONS = ["[1-7].*", "10.*"]
CASE_COUNT = 247

KNOWN_FAILURES = {
    # A second close frame in the same read is answered with 1002 instead of being ignored.
    "picows": {"7.1.2"},
    # A close frame in the middle of a message is answered with 1002 instead of its own code.
    "websockets": {"7.1.5"},
}
"""What the libraries do by themselves, and harms none but a peer that breaks the protocol."""


async def echo(connection: Any) -> None:
    """Send back what comes, as it came. (A channel would refuse what is not text.)"""
    connection.lift_entry_limit()
    try:
        while True:
            message = await connection.recv()
            if isinstance(message, str):
                await connection.send_text(message.encode())
            else:
                await connection.send(message, text=False)
    except connection.closed_exception:
        pass


@asynccontextmanager
async def echo_server(library: str) -> AsyncIterator[str]:
    bound = listening_socket("127.0.0.1", 0)
    url = f"ws://127.0.0.1:{bound.getsockname()[1]}/"
    config = ServerConfig()
    server = await LISTEN[library](bound, config, UpgradeRules(config), echo)
    try:
        yield url
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.slow
async def test_no_case_fails_but_those_that_the_library_is_known_for(library: str) -> None:
    async with asyncio.timeout(50), echo_server(library) as url:
        try:
            results = await kosoku.run_fuzzingclient(url, cases=SECTIONS, concurrency=4)
        except kosoku.FailureError as failure:
            results = failure.results
    assert len(results) == CASE_COUNT
    failed = {result.case_id for result in results if not result.passed}
    assert failed <= KNOWN_FAILURES[library]
