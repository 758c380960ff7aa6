"""Words of MCP that more than one room reads or writes.

Constants only: what follows from a word is decided where it is read. Words of one room alone
stay there.
"""

from collections.abc import Mapping
from enum import Enum


class Era(Enum):
    """How one speaks: after a handshake (up to 2025-11-25), or since 2026-07-28 without."""

    HANDSHAKE = "handshake"
    MODERN = "modern"


# Codes of errors: JSON-RPC's own, then MCP's
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
RESOURCE_NOT_FOUND = -32002
MISSING_CLIENT_CAPABILITY = -32021
UNSUPPORTED_PROTOCOL_VERSION = -32022
URL_ELICITATION_REQUIRED = -32042

# Requests of a client
INITIALIZE = "initialize"
DISCOVER = "server/discover"
PING = "ping"
LIST_TOOLS = "tools/list"
CALL_TOOL = "tools/call"
LIST_RESOURCES = "resources/list"
LIST_TEMPLATES = "resources/templates/list"
READ_RESOURCE = "resources/read"
SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"
LIST_PROMPTS = "prompts/list"
GET_PROMPT = "prompts/get"
COMPLETE = "completion/complete"
SET_LEVEL = "logging/setLevel"
LISTEN = "subscriptions/listen"

# Notifications
INITIALIZED = "notifications/initialized"
CANCELLED = "notifications/cancelled"
PROGRESS = "notifications/progress"
LOG_MESSAGE = "notifications/message"
LISTEN_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
RESOURCE_UPDATED = "notifications/resources/updated"
TOOLS_CHANGED = "notifications/tools/list_changed"
RESOURCES_CHANGED = "notifications/resources/list_changed"
PROMPTS_CHANGED = "notifications/prompts/list_changed"

# Keys of a `_meta`
RESERVED_PREFIX = "io.modelcontextprotocol/"
VERSION_KEY = RESERVED_PREFIX + "protocolVersion"
CLIENT_INFO_KEY = RESERVED_PREFIX + "clientInfo"
CLIENT_CAPABILITIES_KEY = RESERVED_PREFIX + "clientCapabilities"
"""Where a client of 2026 declares, in each request, what it can be asked."""
LOG_LEVEL_KEY = RESERVED_PREFIX + "logLevel"
SERVER_INFO_KEY = RESERVED_PREFIX + "serverInfo"
SUBSCRIPTION_KEY = RESERVED_PREFIX + "subscriptionId"
PROGRESS_TOKEN = "progressToken"

# What may be told unasked
LIST_CHANGED = "listChanged"
"""The detail of a capability by which a server says that it tells of changes of a list."""
LISTEN_FLAGS: Mapping[str, str] = {
    TOOLS_CHANGED: "toolsListChanged",
    RESOURCES_CHANGED: "resourcesListChanged",
    PROMPTS_CHANGED: "promptsListChanged",
}
"""How `subscriptions/listen` asks for a notification of a change."""
LISTEN_URIS = "resourceSubscriptions"
"""Where it names the resources whose updates are to be told."""
