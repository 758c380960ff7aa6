"""What a client is told unasked: lists that changed, resources that were updated.

In the handshake era everybody is told of lists, and of the resources that were subscribed to.
Since 2026-07-28 a client listens, by a request that says of what, and each notification names
that request. Knows no I/O.
"""

from typing import Any, NamedTuple

from exai.core.mcp_words import (
    INVALID_PARAMS,
    LISTEN_FLAGS,
    LISTEN_URIS,
    PROMPTS_CHANGED,
    RESOURCE_UPDATED,
    RESOURCES_CHANGED,
    SUBSCRIPTION_KEY,
    TOOLS_CHANGED,
)
from exai.core.message_ids import Id
from exai.protocols.mcp_messages import McpError

_MAX_URIS = 1000

NEWS_OF_OP = {
    "tools_changed": TOOLS_CHANGED,
    "resources_changed": RESOURCES_CHANGED,
    "prompts_changed": PROMPTS_CHANGED,
    "resource_updated": RESOURCE_UPDATED,
}
"""The notification for each news of `exai.v1`."""


class News(NamedTuple):
    """One piece of news; `uri` says of which resource, where it is of one."""

    method: str
    uri: str | None = None

    def params(self, subscription: Id | None = None) -> dict[str, Any]:
        """Return the notification's params, for one subscription or for all who hear it."""
        params: dict[str, Any] = {} if self.uri is None else {"uri": self.uri}
        return params if subscription is None else {**params, **_named(subscription)}


LISTS_CHANGED = (
    News(RESOURCES_CHANGED),
    News(PROMPTS_CHANGED),
)
"""What a client is told where it is not known whether they have changed."""


class Subscription(NamedTuple):
    """What one `subscriptions/listen` asked for, as far as it is honored."""

    id: Id
    methods: frozenset[str]
    uris: frozenset[str]

    def wants(self, news: News) -> bool:
        """Tell whether this subscription is told."""
        if news.method == RESOURCE_UPDATED:
            # What changed may be a part of what was asked for.
            return news.uri is not None and news.uri.startswith(tuple(self.uris))
        return news.method in self.methods

    def acknowledgement(self) -> dict[str, Any]:
        """Return the params of the notification that opens the stream."""
        honored: dict[str, Any] = {
            flag: True for method, flag in LISTEN_FLAGS.items() if method in self.methods
        }
        if self.uris:
            honored[LISTEN_URIS] = sorted(self.uris)
        return {"notifications": honored, **_named(self.id)}

    def result(self) -> dict[str, Any]:
        """Return the answer to the request, which ends the stream."""
        return _named(self.id)


def read_listen(id_: Id, params: dict[str, Any]) -> Subscription:
    """Read a `subscriptions/listen`. Raises `McpError`."""
    wanted = params.get("notifications")
    if not isinstance(wanted, dict):
        raise McpError(INVALID_PARAMS, "subscriptions/listen needs notifications, an object")
    uris = wanted.get(LISTEN_URIS) or []
    if not (isinstance(uris, list) and all(isinstance(uri, str) for uri in uris)):
        raise McpError(INVALID_PARAMS, "resourceSubscriptions is a list of URIs")
    if len(uris) > _MAX_URIS:
        raise McpError(INVALID_PARAMS, f"at most {_MAX_URIS:,} resources can be listened to")
    methods = frozenset(method for method, flag in LISTEN_FLAGS.items() if wanted.get(flag) is True)
    return Subscription(id_, methods, frozenset(uris))


def _named(subscription: Id) -> dict[str, Any]:
    return {"_meta": {SUBSCRIPTION_KEY: subscription}}
