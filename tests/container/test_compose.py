"""The service of compose.yaml, run for real, and reached as its clients reach it."""

import re
import sys
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import pytest

from exai.core.config import ServerConfig
from tests.container.engine import (
    BUILD_S,
    ROOT,
    SMOKE_TEST,
    TOKEN,
    Ended,
    alone,
    compose,
    free_ports,
    podman,
    run,
)

COMPOSE = (ROOT / "compose.yaml").read_text("utf-8")
CONTAINER = "exai-mcp-daemon"


class Service(NamedTuple):
    """A project of its own, on ports of this machine that were free."""

    project: str
    environ: dict[str, str]

    def do(self, *arguments: str) -> Ended:
        return compose("--project-name", self.project, *arguments, environ=self.environ)

    def start(self) -> None:
        self.do("up", "--detach", "--no-build").written()

    def check(self, token: str = TOKEN) -> Ended:
        """Run the smoke test in the container, which waits for the daemon."""
        return podman("exec", "--env", f"EXAI_WS_TOKEN={token}", CONTAINER, *SMOKE_TEST)

    def call_from_host(self, *arguments: str) -> str:
        exai = Path(sys.prefix, "bin", "exai")
        return run([exai, *arguments], self.environ).written()

    def status_for_host(self, name: str) -> int:
        """Ask the HTTP port by a name, as another container does."""
        port = int(self.environ["EXAI_SERVER_HTTP_PORT"])
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        connection.request("GET", "/livez", headers={"Host": f"{name}:8082"})
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture
def service(image: None) -> Iterator[Service]:
    environ = free_ports() | {"EXAI_WS_TOKEN": TOKEN, "HOME": "/nonexistent"}
    service = Service(f"exai-{uuid.uuid4().hex[:8]}", environ)
    with alone("service"):
        try:
            yield service
        finally:
            service.do("down", "--volumes")


def test_an_orderly_end_is_given_its_time() -> None:
    grace = re.search(r"stop_grace_period: (\d+)s", COMPOSE)
    server = ServerConfig()
    assert grace
    assert int(grace[1]) > server.drain_s + 6 * server.close_timeout_s + 30


@pytest.mark.slow
@pytest.mark.timeout(BUILD_S)
def test_the_service_lives_is_reached_and_ends_as_it_should(service: Service) -> None:
    service.start()
    checks = service.check().written()
    tools = service.call_from_host("tools")
    statuses = [service.status_for_host(name) for name in ("exai-daemon", CONTAINER, "evil.test")]
    confinement = podman("exec", CONTAINER, "grep", "-E", "CapBnd|NoNewPrivs", "/proc/self/status")
    written = podman("exec", CONTAINER, "touch", "/opt/exai/x")
    began_at = time.monotonic()
    service.do("stop").written()
    stop_s = time.monotonic() - began_at
    status = podman("inspect", "--format", "{{.State.ExitCode}}", CONTAINER).written()

    assert "10 of 10 checks hold" in checks
    assert "echo text=" in tools
    assert statuses == [200, 200, 421]
    assert confinement.written().split() == ["CapBnd:", "0" * 16, "NoNewPrivs:", "1"]
    assert "Read-only file system" in written.err
    assert (status.strip(), stop_s < 10) == ("0", True)


@pytest.mark.slow
@pytest.mark.timeout(BUILD_S)
def test_a_token_that_was_replaced_outlives_an_update(service: Service) -> None:
    service.start()
    service.check().written()
    token = podman("exec", CONTAINER, "exai", "token", "rotate").written().strip()
    service.do("down").written()
    service.start()

    service.check(token).written()
    assert "the token opens a session: 4003" in service.check().out


@pytest.mark.slow
@pytest.mark.usefixtures("image")
@pytest.mark.timeout(BUILD_S)
def test_without_a_token_nothing_is_started() -> None:
    refused = compose("up", "--detach", "--no-build", environ={})

    assert refused.status != 0
    assert "EXAI_WS_TOKEN" in refused.err
    assert "16 or more characters" in refused.err
