"""An outbox's end: what comes after it harms nobody."""

from exai.connections.outbox import Outbox
from exai.protocols import close_codes, exai_v1
from exai.testing.memory_channel import memory_channel_pair


async def test_a_session_can_be_taken_over_while_its_connection_is_ending() -> None:
    channel, _ = memory_channel_pair()
    outbox = Outbox(exai_v1.encode, max_bytes=1000, patience_s=1.0)
    outbox.finish(close_codes.NORMAL)
    assert await outbox.run(channel) == close_codes.NORMAL
    outbox.abandon(close_codes.SESSION_TAKEN_OVER)
