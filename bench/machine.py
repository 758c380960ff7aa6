"""What the figures were measured on."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.server_process import PEERS_PYTHON, ROOT, cores

_PACKAGES = ("exai", "picows", "websockets", "uvloop", "msgspec", "mcp", "uvicorn")


def machine() -> dict[str, Any]:
    """Describe this machine and what runs on it."""
    server_core, load_core = cores()
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "server_core": server_core,
        "load_core": load_core,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES} | _fastmcp(),
    }


def commit() -> str:
    """Return the commit that is measured, and whether the source differs from it."""
    git = ["git", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, check=False)
    changed = subprocess.run(
        [*git, "diff", "--quiet", "HEAD", "--", "src", "bench/*.py"], check=False
    )
    return head.stdout.decode().strip() + (" and changes" if changed.returncode else "")


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def _fastmcp() -> dict[str, str]:
    if not PEERS_PYTHON.exists():
        return {}
    question = "from importlib.metadata import version as v; print(v('fastmcp'), v('mcp'))"
    said = subprocess.run([PEERS_PYTHON, "-c", question], capture_output=True, check=False)
    fastmcp, _, mcp = said.stdout.decode().strip().partition(" ")
    return {"fastmcp": fastmcp, "mcp under fastmcp": mcp}
