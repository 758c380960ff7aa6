"""Where an instance of an MCP server is in its lives."""

from enum import StrEnum


class ServerState(StrEnum):
    """As it is told in statistics and reports."""

    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing_off"
    GAVE_UP = "gave_up"
    STOPPED = "stopped"
