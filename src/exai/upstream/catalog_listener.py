"""The contract of whoever hears what servers have beside tools, and tell by themselves."""

from collections.abc import Set
from typing import Protocol

from exai.upstream.listing import Kind, Listed


class CatalogListener(Protocol):
    """Hears of all servers. Nothing of it raises."""

    async def take_lists(self, server: str, lists: Listed) -> None:
        """Hear what a server has now, at its start and at each change; kinds left out stay."""

    def note_unlisted(self, server: str, kind: Kind, reason: str) -> None:
        """Hear that a server did not say what it has: what was known of it stays."""

    def note_updated(self, server: str, uri: str, session_ids: Set[str]) -> None:
        """Hear that a resource has changed, which these sessions watch."""


class NobodyHears(CatalogListener):
    """Hears nothing."""

    async def take_lists(self, server: str, lists: Listed) -> None:
        """Do nothing."""

    def note_unlisted(self, server: str, kind: Kind, reason: str) -> None:
        """Do nothing."""

    def note_updated(self, server: str, uri: str, session_ids: Set[str]) -> None:
        """Do nothing."""
