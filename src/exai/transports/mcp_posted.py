"""What is looked at of a posted MCP message before the SDK reads it."""

import msgspec

from exai.core.mcp_words import CALL_TOOL, CANCELLED
from exai.core.message_ids import Id


class _Params(msgspec.Struct, frozen=True):
    name: str | None = None
    cancelled_id: Id | None = msgspec.field(name="requestId", default=None)


class Posted(msgspec.Struct, frozen=True):
    """A message's head. Nothing is said of one that cannot be read: the SDK will refuse it."""

    id: Id | None = None
    method: str = ""
    params: _Params = _Params()

    @property
    def tool(self) -> str | None:
        """Which tool is called, where one is."""
        return self.params.name if self.method == CALL_TOOL else None

    @property
    def cancels(self) -> Id | None:
        """The id of the request that is taken back, where one is."""
        return self.params.cancelled_id if self.method == CANCELLED else None


_decode = msgspec.json.Decoder(Posted).decode


def read_posted(body: bytes) -> Posted:
    """Read the head of a message."""
    try:
        return _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Posted()
