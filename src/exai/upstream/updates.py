"""Updates of resources, as often as they are worth telling: the first at once, more after a pause.

Knows URIs and a pause; knows nothing of who hears of them.
"""

import asyncio
from collections.abc import Callable

_PAUSE_S = 0.1
_MAX_PAUSING = 1000


class Updates:
    """Tells `tell` of updates; of many of one resource within the pause it tells one more."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell = tell
        self._came_again: dict[str, bool] = {}

    def note(self, uri: str) -> None:
        """Take note that a resource was updated. Of a flood of different ones, some are lost."""
        if uri in self._came_again:
            self._came_again[uri] = True
        elif len(self._came_again) < _MAX_PAUSING:
            self._came_again[uri] = False
            asyncio.get_running_loop().call_later(_PAUSE_S, self._end_pause, uri)
            self._tell(uri)

    def _end_pause(self, uri: str) -> None:
        if self._came_again.pop(uri):
            self.note(uri)
