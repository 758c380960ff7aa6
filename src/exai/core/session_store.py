"""The contract of sessions that outlive the process which opened them."""

from abc import ABC, abstractmethod

import msgspec


class SessionRecord(msgspec.Struct, frozen=True):
    """A session: whose it is, and the digest of the token that resumes it.

    `about` is what its protocol must know to go on with it; empty for a session of `exai.v1`.
    """

    session_id: str
    principal: str
    resume_digest: bytes
    about: bytes = b""


class SessionStore(ABC):
    """Where open and detached sessions rest. One that is down raises `ServiceUnavailable`."""

    @abstractmethod
    async def load(self) -> list[SessionRecord]:
        """Return all sessions, oldest first."""

    @abstractmethod
    async def keep(self, session: SessionRecord) -> None:
        """Remember a session; one that is known gets what is new `about` it."""

    @abstractmethod
    async def forget(self, session_id: str) -> None:
        """Remember a session no more."""
