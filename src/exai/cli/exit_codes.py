"""What the exit status of `exai` tells."""

from enum import IntEnum


class ExitCode(IntEnum):
    """Every status that a command ends with."""

    OK = 0
    CALL_FAILED = 1
    USAGE = 2
    REFUSED = 3
    CANNOT_CONNECT = 4
    UNAUTHORIZED = 5
    ALREADY_RUNNING = 6
    CANNOT_SERVE = 7
    DEFECT = 8
    NOT_READY = 9
    PROBLEM_FOUND = 10
    UNKNOWN = 11
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: dict[ExitCode, str] = {
    ExitCode.OK: "done",
    ExitCode.CALL_FAILED: "the call was accepted, and failed (or nobody reads its answer)",
    ExitCode.USAGE: "the command line or the configuration is wrong",
    ExitCode.REFUSED: "refused before acceptance: nothing ran",
    ExitCode.CANNOT_CONNECT: "no daemon answers, or the connection broke",
    ExitCode.UNAUTHORIZED: "the daemon refused the token",
    ExitCode.ALREADY_RUNNING: "another daemon uses this state directory",
    ExitCode.CANNOT_SERVE: "the daemon cannot use its ports or its state directory",
    ExitCode.DEFECT: "a defect ended the daemon, or kept it from ending; its log has the details",
    ExitCode.NOT_READY: "the daemon answers, but is not ready: it starts, or it stops",
    ExitCode.PROBLEM_FOUND: "`exai doctor` has found a problem",
    ExitCode.UNKNOWN: "nothing is known of the call, or the MCP server, that was asked about",
    ExitCode.INTERRUPTED: "ended by Ctrl-C (SIGINT)",
    ExitCode.TERMINATED: "ended by SIGTERM; a daemon that had time to stop ends with 0",
}
