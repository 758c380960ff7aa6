"""The image, built and run for real, confined as far as it goes."""

import json
import re
import time
from pathlib import Path

import pytest

from exai.cli.exit_codes import ExitCode
from tests.container.engine import (
    BUILD_S,
    IMAGE,
    ROOT,
    SMOKE_TEST,
    WITH_TOKEN,
    podman,
    run_image,
    running_image,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(BUILD_S),
    pytest.mark.usefixtures("image"),
]

HEALTH_CHECK = ("python", "/app/health_check.py")
PATIENCE_S = 20.0


def wait_until_healthy(name: str) -> None:
    """Run the image's own health check, as an engine does, until it says yes."""
    gives_up_at = time.monotonic() + PATIENCE_S
    while podman("healthcheck", "run", name).status != 0:
        assert time.monotonic() < gives_up_at, podman("logs", name)
        time.sleep(0.1)


def test_the_image_says_how_it_wants_to_be_run() -> None:
    (image,) = json.loads(podman("image", "inspect", IMAGE).written())
    config = image["Config"]

    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["exai", "serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["ExposedPorts"]) == {"8079/tcp", "8082/tcp"}
    assert set(config["Volumes"]) == {"/var/lib/exai"}
    assert image["Healthcheck"]["Test"] == ["CMD", *HEALTH_CHECK]


def test_the_image_holds_what_the_daemon_needs_and_nothing_else() -> None:
    lock = (ROOT / "requirements-runtime.lock").read_text("utf-8")
    pinned = set(re.findall(r"^([a-z0-9-]+)==.*(?:'linux'|\\)", lock, re.M))
    listing = "from importlib.metadata import distributions as d; print(*{i.name for i in d()})"
    installed = run_image(command=("python", "-c", listing)).written().split()

    names = {re.sub(r"[-_.]+", "-", name).lower() for name in installed}
    assert names - pinned == {"exai"}


def test_a_daemon_in_a_container_passes_its_smoke_test_and_ends_when_it_is_told_to() -> None:
    with running_image() as name:
        checks = podman("exec", name, *SMOKE_TEST).written().splitlines()
        wait_until_healthy(name)
        podman("stop", "--time", "40", name).written()
        state = json.loads(podman("inspect", "--format", "{{json .State}}", name).written())
        log = podman("logs", name).err

    assert checks[-1] == f"{len(checks) - 2} of {len(checks) - 2} checks hold"
    assert state["ExitCode"] == 0
    assert '"event":"daemon.stopped"' in log


def test_without_a_daemon_both_checks_fail_and_say_so() -> None:
    smoke = run_image(*WITH_TOKEN, command=SMOKE_TEST)
    health = run_image(*WITH_TOKEN, command=HEALTH_CHECK)

    assert (smoke.status, health.status) == (1, 1)
    assert "FAIL" in smoke.out
    assert "no daemon has said that it is ready" in health.out


def test_a_token_that_is_too_weak_or_missing_is_named() -> None:
    missing, weak = run_image(), run_image("--env", "EXAI_WS_TOKEN=short")

    assert (missing.status, weak.status) == (ExitCode.USAGE, ExitCode.USAGE)
    assert "EXAI_WS_TOKEN: principals.default.token: expected a secret" in missing.err
    assert "EXAI_WS_TOKEN: principals.default.token: a token has at least 16" in weak.err


def test_a_volume_that_cannot_be_written_to_is_named() -> None:
    read_only = run_image(*WITH_TOKEN, "--volume", f"{ROOT}/docs:/var/lib/exai:ro")

    assert read_only.status == ExitCode.CANNOT_SERVE
    assert "/var/lib/exai" in read_only.err


def test_a_port_or_a_state_that_is_taken_is_named() -> None:
    with running_image() as name:
        wait_until_healthy(name)
        port = run_image(*WITH_TOKEN, network=f"container:{name}")
        state = run_image(*WITH_TOKEN, "--volumes-from", name)

    assert port.status == ExitCode.CANNOT_SERVE
    assert "Address already in use" in port.err
    assert state.status == ExitCode.ALREADY_RUNNING
    assert "another EXAI daemon" in state.err


def test_nothing_of_the_checkout_reaches_the_build_that_it_is_not_made_of(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_bytes((ROOT / ".dockerignore").read_bytes())
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    wanted = {"pyproject.toml", "requirements-runtime.lock", "src/exai/app.py"}
    secret = {".env", "exai.toml", "mcp.json", "token", ".git/config", "config/exai.toml"}
    made = {"src/exai/__pycache__/app.pyc", ".venv/bin/exai"}
    for path in (tmp_path / name for name in wanted | secret | made):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    image = podman("build", "--quiet", tmp_path).written().strip()
    try:
        context = Path(podman("image", "mount", image).written().strip())
        files = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    finally:
        podman("image", "rm", "--force", image)

    assert files == wanted
