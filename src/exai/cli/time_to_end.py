"""How long a daemon may take to end as it should."""

from exai.core.config import ServerConfig

_CHILDREN_END_WITHIN_S = 30.0


def time_to_end_s(server: ServerConfig) -> float:
    """Return what an orderly end may take: the calls', the connections', the children's."""
    return server.drain_s + 6 * server.close_timeout_s + _CHILDREN_END_WITHIN_S
