"""Telling peers what is new, each only what concerns it: other tools, prompts and resources.

Knows peers, whatever carries them, and what each may see; knows nothing of where news come from.
"""

from collections.abc import Iterable, Set

from exai.core.peer import Peer
from exai.core.replies import PromptsChanged, ResourcesChanged, ResourceUpdated, ToolsChanged


class Announcer:
    """Tells all peers that it was given, as they are at the moment of the news."""

    def __init__(self) -> None:
        self._rooms: list[Iterable[Peer]] = []

    def add(self, peers: Iterable[Peer]) -> None:
        """Tell these peers, too: each iteration has those that are there by then."""
        self._rooms.append(peers)

    def tell_tools_changed(self, names: Set[str]) -> None:
        """Tell whoever sees one of these tools that they came, went or changed."""
        for peer in self._peers_seeing(names):
            peer.send(ToolsChanged())

    def tell_prompts_changed(self, names: Set[str]) -> None:
        """Tell whoever sees one of these prompts that they came, went or changed."""
        for peer in self._peers_seeing(names):
            peer.send(PromptsChanged())

    def tell_resources_changed(self, server: str) -> None:
        """Tell whoever sees a server's resources that they came, went or changed."""
        for peer in self._peers():
            if peer.principal.may_see_resources(server):
                peer.send(ResourcesChanged())

    def tell_updated(self, server: str, uri: str, session_ids: Set[str]) -> None:
        """Tell these sessions, as far as they may see it, that a resource of a server changed."""
        for peer in self._peers():
            if peer.session_id in session_ids and peer.principal.may_see_resources(server):
                peer.send(ResourceUpdated(uri))

    def _peers(self) -> Iterable[Peer]:
        return (peer for peers in self._rooms for peer in peers)

    def _peers_seeing(self, names: Set[str]) -> Iterable[Peer]:
        return (peer for peer in self._peers() if any(map(peer.principal.may_use, names)))
