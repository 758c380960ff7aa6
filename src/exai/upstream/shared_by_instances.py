"""What all instances of one configured MCP server share, and whom they tell what they learn.

Knows how the server is configured now, and what is known of it whichever instance runs; knows
nothing of instances themselves, nor of how many there are.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from exai.core.config import UpstreamConfig
from exai.upstream.shown_url import shown_url
from exai.upstream.speech import Speech

OnListed = Callable[[list[dict[str, Any]], str], Awaitable[None]]
"""Told of a server's tools, as it describes them, and of its version."""


class SharedByInstances:
    """The one home of a server's `config`, which another may take the place of at any time.

    `on_listed` is told of the tools of an instance that lists them, before it is ready and at
    each change; `on_changed` when another says that its own have changed.
    """

    def __init__(
        self,
        name: str,
        config: UpstreamConfig,
        speech: Speech,
        on_listed: OnListed,
        on_changed: Callable[[], None],
    ) -> None:
        self.name = name
        self.config = config
        self.speech = speech
        self.on_listed = on_listed
        self.on_changed = on_changed
        self.tool_count = 0
        self.is_known_to_work = False

    @property
    def shown_url(self) -> str | None:
        """Where the server is reached, if it is by HTTP, without what is secret."""
        return None if self.config.url is None else shown_url(self.config.url)

    @property
    def may_come_back(self) -> bool:
        """Whether it is worth waiting for: others start it, and it has been there before."""
        return self.config.url is not None and self.is_known_to_work
