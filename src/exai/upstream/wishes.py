"""What is to be heard of one instance of a server, in whichever of its lives, and by whom.

Knows which sessions watch which resources, and how much of the server's log is wanted; knows
nothing of how a server is asked for it (`subscriber`).
"""

import asyncio
import re
from collections.abc import Callable
from itertools import islice

from exai.core.errors import QueueFull

_BOUNDARY = re.compile(r"[/?#]")
_MAX_BOUNDARIES = 100


class Wishes:
    """The resources that sessions watch, and the log level that they want at `log_level`.

    Once a resource that was watched before is watched again, in a later life, `on_missed` is
    told: nobody knows what happened to it meanwhile.
    """

    def __init__(self, log_level: Callable[[], str | None] = lambda: None) -> None:
        self.log_level = log_level
        self.on_missed: Callable[[str], object] = lambda uri: None
        self._watchers: dict[str, dict[str, None]] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._agreed: set[str] = set()
        self._missed: set[str] = set()
        self._changed = asyncio.Event()

    @property
    def uris(self) -> frozenset[str]:
        """The resources that somebody watches."""
        return frozenset(self._watchers)

    def watchers_of(self, uri: str) -> set[str]:
        """Return the sessions that watch a resource, or one that it is a part of."""
        sessions = set(self._watchers.get(uri, ()))
        for boundary in islice(_BOUNDARY.finditer(uri), _MAX_BOUNDARIES):
            for whole in (uri[: boundary.start()], uri[: boundary.end()]):
                sessions.update(self._watchers.get(whole, ()))
        return sessions

    async def watch(self, uri: str, session_id: str, *, max_count: int) -> None:
        """Let a session watch a resource; returns once the server has agreed to tell.

        Raises what the server was asked with, and `QueueFull`.
        """
        is_new = session_id not in self._watchers.get(uri, ())
        if is_new and sum(session_id in each for each in self._watchers.values()) >= max_count:
            raise QueueFull(
                f"this session watches {max_count:,} resources; leave some first",
                scope="subscriptions",
            )
        self._watchers.setdefault(uri, {})[session_id] = None
        if uri in self._agreed:
            return
        told = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(uri, set()).add(told)
        self.touch()
        try:
            await told
        except BaseException:
            if is_new:
                self.unwatch(uri, session_id)
            raise
        finally:
            self._forget_waiting(uri, told)

    def unwatch(self, uri: str, session_id: str) -> None:
        """Let a session watch a resource no more; harmless where it does not."""
        watchers = self._watchers.get(uri, {})
        watchers.pop(session_id, None)
        if not watchers and self._watchers.pop(uri, None) is not None:
            self._agreed.discard(uri)
            self._missed.discard(uri)
            self.touch()

    def end_session(self, session_id: str) -> None:
        """Let a session that has ended watch nothing any more."""
        for uri in list(self._watchers):
            self.unwatch(uri, session_id)

    def touch(self) -> None:
        """Have what is wished for looked at again."""
        self._changed.set()

    async def wait_changed(self) -> None:
        """Wait until what is wished for may be something else."""
        await self._changed.wait()
        self._changed.clear()

    def begin_anew(self) -> None:
        """Take note that the server tells nothing until it is asked again."""
        self._missed |= self._agreed
        self._agreed.clear()
        self.touch()

    @property
    def has_waiting(self) -> bool:
        """Whether anybody waits for the server's word."""
        return bool(self._waiting)

    def is_waited_for(self, uri: str) -> bool:
        """Tell whether somebody waits for the server's word on a resource."""
        return bool(self._waiting.get(uri))

    def agree(self, uri: str) -> None:
        """Take note that the server tells of a resource from now on."""
        if uri not in self._watchers or uri in self._agreed:
            return
        self._agreed.add(uri)
        for told in self._waiting.pop(uri, ()):
            if not told.done():
                told.set_result(None)
        if uri in self._missed:
            self._missed.discard(uri)
            self.on_missed(uri)

    def refuse(self, uri: str, fault: Exception) -> None:
        """Take note that the server does not tell of a resource."""
        for told in self._waiting.pop(uri, ()):
            if not told.done():
                told.set_exception(fault)

    def _forget_waiting(self, uri: str, told: "asyncio.Future[None]") -> None:
        waiting = self._waiting.get(uri, set())
        waiting.discard(told)
        if not waiting:
            self._waiting.pop(uri, None)
