"""What every client must be able to do with a server behind the daemon, whatever it speaks."""

from typing import NamedTuple

PREFIX = "everything__"
"""What stands before the names of the fixture's tools."""

SIMPLE = f"{PREFIX}test_simple_text"
FAILING = f"{PREFIX}test_error_handling"
REPORTING = f"{PREFIX}test_tool_with_progress"
WAITING = f"{PREFIX}wait_for_cancellation"
AFTERWARDS = f"{PREFIX}return_after_cancellation"


class Conversation(NamedTuple):
    """What a client has heard: lists, calls, a failure, progress, and a call that it cancelled."""

    tools: list[str]
    text: str
    failure: str
    has_failed: bool
    progress: list[float]
    after_cancelling: str


def check(conversation: Conversation) -> None:
    """Fail unless the client has heard all that there was to hear."""
    assert {SIMPLE, FAILING, REPORTING, WAITING, AFTERWARDS} <= set(conversation.tools)
    assert conversation.text == "This is a simple text response for testing."
    assert conversation.failure == "This tool intentionally returns an error for testing"
    assert conversation.has_failed
    assert conversation.progress == [0, 50, 100]
    assert conversation.after_cancelling == "It was cancelled"
