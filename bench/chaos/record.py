"""What a run leaves behind, as data: every call's history, every execution, every death."""

import msgspec

from bench.chaos.profile import Way


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One terminal frame. `digest` covers all of it but `meta.replayed`; `outcome_digest` what
    the tool said, which is the same for each request of one key.

    `code` is "" for a success. What was `refused` had not been accepted.
    """

    at: float
    digest: str
    outcome_digest: str
    code: str = ""
    message: str = ""
    retryable: bool = False
    reason: str = ""
    text: str = ""
    """The first 200 characters; all of them are `text_bytes` long."""
    text_bytes: int = 0
    refused: bool = False


class CallHistory(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request, as its client saw it. Times are unix seconds."""

    request_id: str
    client: str
    tag: str
    upstream: str
    tool: str
    idempotent: bool
    work_s: float
    size_bytes: int
    fails: bool
    key: str | None = None
    is_twin: bool = False
    is_of_library: bool = False
    """Its client is the client library, which waits by itself for a daemon that is replaced."""
    sent_at: float = 0.0
    accepted_because: str = ""
    is_cancelled: bool = False
    is_acknowledged: bool = False
    is_given_up: bool = False
    """Its client found that the daemon knows nothing of it, and does not send it again."""
    unasked_count: int = 0
    missing: str = ""
    """How the daemon failed to know a call that it had accepted."""
    answers: list[Answer] = []
    refusals: list[Answer] = []
    events: list[tuple[float, str]] = []


class Execution(msgspec.Struct, frozen=True):
    """One execution, as the MCP server wrote it down."""

    execution_id: str
    tag: str
    upstream: str
    begun_at: float
    completed_at: float | None


class Death(msgspec.Struct, frozen=True):
    """Something died, and was back; `way` is how. `in_start` are deaths before it was ready."""

    target: str
    way: Way
    at: float
    back_at: float
    in_start: bool = False


class Wait(msgspec.Struct, frozen=True):
    """How long a call waited for its answer once its client was back; `work_s` is its tool's."""

    s: float
    work_s: float
    after_restart: bool


class DatabaseState(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger's file after the end."""

    integrity: list[str]
    unsettled: list[str]
    call_count: int
    result_bytes: int
    file_bytes: int
    odd: dict[str, list[str]]
    """What is wrong with which requests, by what it is."""
    rows: dict[str, list[str]]
    """What it holds of each request, by its id."""


class Record(msgspec.Struct, kw_only=True):
    """A whole run."""

    profile: str
    seed: int
    duration_s: float
    calls: list[CallHistory]
    executions: list[Execution]
    deaths: list[Death]
    waits: list[Wait]
    lost_sessions: list[str]
    orphans: list[int]
    defects: list[str]
    """What the daemon's log calls a defect."""
    database: DatabaseState
