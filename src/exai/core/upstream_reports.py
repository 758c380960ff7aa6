"""What is told of MCP servers to those who look after them: how they fare, what they said.

The words of the daemon's HTTP answers, which the command line reads.
"""

from collections.abc import Mapping

import msgspec

from exai.core.config import UpstreamConfig


class UpstreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """How one server fares. `tools` are offered; of those that are not, the reasons by their
    own names, for those from whom nothing is hidden.
    """

    name: str
    kind: str
    instance: str
    state: str
    command: str | None
    url: str | None
    pid: int | None
    protocol_version: str | None
    tools: list[str]
    unavailable: dict[str, str]
    running_count: int
    start_count: int
    instance_count: int
    retry_in_s: float | None
    last_end: str | None


class UpstreamReports(msgspec.Struct, frozen=True):
    """Every server that somebody may know of."""

    upstreams: list[UpstreamReport]


class LogLine(msgspec.Struct, frozen=True):
    """One line of a server's log. `number` counts all lines that it ever had."""

    number: int
    at: float
    text: str


class UpstreamLog(msgspec.Struct, frozen=True):
    """Some last lines of a server's log, which goes up to the number `last`."""

    lines: list[LogLine]
    last: int


class ConfigRead(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says now. With `problems` it is not to be used.

    `for_a_restart` are the keys whose values differ from those that the daemon runs with, and
    which it reads only when it starts.
    """

    upstreams: Mapping[str, UpstreamConfig]
    problems: list[str]
    warnings: list[str]
    for_a_restart: list[str]


class ReloadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a reload: names of servers, or what is wrong with the configuration."""

    added: list[str] = []
    removed: list[str] = []
    restarted: list[str] = []
    adjusted: list[str] = []
    for_a_restart: list[str] = []
    warnings: list[str] = []
    problems: list[str] = []
