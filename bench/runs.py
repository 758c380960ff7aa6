"""What is measured, as data: loads to bring, figures that came back, one line of raw data a run."""

from typing import Any, Literal

import msgspec

Language = Literal[
    "exai",
    "mcp_modern",
    "mcp_session",
    "mcp_stdio",
    "mcp_websocket_modern",
    "mcp_websocket_session",
]
"""What a server speaks: `exai.v1`; MCP of 2026 or of before, over HTTP, WebSocket, or pipes."""


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running server is, and how it is spoken to; `fds` are its output and its input."""

    language: Language
    pid: int
    url: str = ""
    token: str = ""
    fds: tuple[int, int] | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Callers that do the same, each on a connection of its own.

    A closed loop has `outstanding` calls of each caller under way at all times, `calls_each` of
    them in all (0: as long as the window lasts). With `rate_per_s` it is an open loop: so many
    calls a second are due, over all callers in turn, whatever became of the earlier ones.
    `outstanding=0` without a rate is a caller who is there and silent.
    """

    name: str
    callers: int
    outstanding: int = 1
    calls_each: int = 0
    rate_per_s: float = 0.0
    tool: str = "echo"
    work_s: float = 0.0
    timeout_s: float = 0.0
    is_equal: bool = False
    """All calls say the same, so that they may share one execution."""
    acks: bool = False
    """Results are acknowledged, as the client library does."""

    @property
    def is_silent(self) -> bool:
        """Tell whether these only are there."""
        return not (self.outstanding or self.rate_per_s)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Groups that call side by side, for one window."""

    groups: tuple[Group, ...]
    duration_s: float
    warm_up_s: float = 0.5
    settle_s: float = 0.0
    """How long after the window the memory is looked at once more."""
    executions_tool: str = ""
    """A tool that says how often work was executed."""


class Order(msgspec.Struct, frozen=True):
    """What the load generator is started for."""

    address: Address
    load: Load


class GroupFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the calls of one group.

    Counts and rates are of answers that came in the window; latencies are of successful calls
    that began, or were due, in the window. `histogram` has the count of latencies per rounded
    number of microseconds (two significant digits).
    """

    answered: int
    refused: int
    wrong: int
    """Other texts than asked for, answers to nothing, and connections lost."""
    unanswered: int
    error_codes: dict[str, int]
    answered_per_s: float
    answered_by_caller: list[int]
    p50_ms: float
    p95_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    histogram: dict[str, int]


class LoadFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What the load generator found in one window.

    Processor time and memory are of the server's process; `children_cpu_s` is of all processes
    below it. `start` is before the first connection, `connected` before the first call.
    """

    window_s: float
    server_cpu_s: float
    children_cpu_s: float
    load_cpu_s: float
    rss_start_bytes: int
    rss_connected_bytes: int
    rss_peak_bytes: int
    rss_end_bytes: int
    executions: int
    groups: dict[str, GroupFigures]

    def cpu_us_per_call(self, *, with_children: bool = False) -> float:
        """Return the server's processor time for each answer, refusals included."""
        answers = sum(group.answered + group.refused for group in self.groups.values())
        cpu_s = self.server_cpu_s + (self.children_cpu_s if with_children else 0.0)
        return cpu_s / answers * 1e6 if answers else 0.0

    @property
    def wrong(self) -> int:
        """How many answers were not what was asked for, or never came."""
        return sum(group.wrong + group.unanswered for group in self.groups.values())


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One line of raw data: one load on one server, once."""

    cell: str
    server: str
    settings: dict[str, Any]
    """What the daemon is told beside its defaults, and of the MCP server behind it."""
    round: int
    load: Load
    figures: LoadFigures


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of raw data: what made the lines below it, and on what."""

    scenario: str
    command: str
    commit: str
    began_at: str
    library: str
    machine: dict[str, Any]
    not_measured: dict[str, str] = {}
    """Cells that could not be measured, and why."""
