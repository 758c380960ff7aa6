"""What it costs to start: time to `--help`, time until ready, resident memory.

    .venv/bin/python -m bench.startup [--runs 5]

Prints medians of several runs, each a process of its own. Report, not a test: a loaded
machine is slower, and no figure here fails anything.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from bench.process_tree import ProcessTree

EXAI = [sys.executable, "-m", "exai"]
UPSTREAM = {
    "mcpServers": {
        "time": {
            "command": sys.executable,
            "args": ["-m", "mcp_server_time", "--local-timezone", "UTC"],
        }
    }
}


class Start(NamedTuple):
    """One start of the daemon."""

    ready_s: float
    rss_mib: float


def help_s() -> float:
    """Time `exai --help` as a whole process."""
    begun = time.perf_counter()
    subprocess.run([*EXAI, "--help"], check=True, capture_output=True)
    return time.perf_counter() - begun


def start(*options: str, environment: dict[str, str] | None = None) -> Start:
    """Start a daemon, measure it when it says that it is ready, and stop it."""
    with tempfile.TemporaryDirectory() as state_dir:
        command = [*EXAI, "serve", "--port", "0", "--http-port", "0", "--state-dir", state_dir]
        begun = time.perf_counter()
        with subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | (environment or {}),
        ) as daemon:
            assert daemon.stdout is not None
            if not daemon.stdout.readline():
                raise SystemExit("the daemon did not start; try `exai serve`")
            ready_s = time.perf_counter() - begun
            rss_mib = ProcessTree(daemon.pid).resident_bytes() / 2**20
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(timeout=30)
    return Start(ready_s, rss_mib)


def report(name: str, starts: list[Start]) -> None:
    """Print the medians of some starts."""
    ready_s = statistics.median(one.ready_s for one in starts)
    rss_mib = statistics.median(one.rss_mib for one in starts)
    print(f"{name:<44} ready {ready_s:5.2f} s   RSS {rss_mib:6.1f} MiB")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5)
    runs = range(parser.parse_args().runs)
    help_s()
    print(f"{'exai --help':<44}       {statistics.median(help_s() for _ in runs):5.2f} s")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as mcp_config:
        json.dump(UPSTREAM, mcp_config)
        mcp_config.flush()
        report("without upstreams and providers", [start() for _ in runs])
        with_key = {"KIMI_API_KEY": "a-key-that-is-never-used"}
        upstream = ("--mcp-config", mcp_config.name)
        report(
            "with an MCP server and a provider's key",
            [start(*upstream, environment=with_key) for _ in runs],
        )


if __name__ == "__main__":
    main()
