"""What the tests of one module share."""

from collections.abc import Iterator

import pytest

from tests.upstream.http_servers import SharedServers


@pytest.fixture(scope="module")
def shared() -> Iterator[SharedServers]:
    """Servers behind HTTP for tests that leave them unharmed."""
    servers = SharedServers()
    yield servers
    servers.stop()
