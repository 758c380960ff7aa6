"""The client library: `DaemonClient`, what it returns, and what it raises (`docs/client.md`)."""

from exai.client.answers import CallError, CallResult, Progress
from exai.client.backoff import Backoff
from exai.client.daemon_client import DaemonClient
from exai.client.errors import (
    AnswerLost,
    ClientError,
    ConnectionLost,
    DaemonUnreachable,
    HelloRefused,
    ProtocolBroken,
    RequestRefused,
    RequestTooLarge,
)

__all__ = [
    "AnswerLost",
    "Backoff",
    "CallError",
    "CallResult",
    "ClientError",
    "ConnectionLost",
    "DaemonClient",
    "DaemonUnreachable",
    "HelloRefused",
    "Progress",
    "ProtocolBroken",
    "RequestRefused",
    "RequestTooLarge",
]
