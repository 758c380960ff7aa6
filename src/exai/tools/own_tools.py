"""The daemon's own tools, assembled."""

from exai.core.clock import Clock
from exai.core.config import ConversationsConfig
from exai.core.conversation_store import ConversationStore
from exai.core.tool import Tool
from exai.providers.registry import ProviderRegistry
from exai.tools.built_in import EchoTool, VersionTool
from exai.tools.chat import ChatTool
from exai.tools.list_models import ListModelsTool


def own_tools(
    version: VersionTool,
    providers: ProviderRegistry,
    conversations: ConversationStore,
    limits: ConversationsConfig,
    clock: Clock,
) -> list[Tool]:
    """Return what every daemon offers, whatever stands behind it."""
    return [
        EchoTool(),
        version,
        ListModelsTool(providers),
        ChatTool(providers, conversations, limits, clock),
    ]
