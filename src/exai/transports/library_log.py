"""What a WebSocket library may write to the log: its defects and ours, not its peers' sins.

Both libraries log a defect with a traceback, and what a peer did wrong without one. The
latter any scanner can cause at any rate, and the peer is told by a close code.
"""

import logging


def library_log(library: str) -> "logging.LoggerAdapter[logging.Logger]":
    """Return the logger to hand to a library.

    An adapter, because picows makes a child of a plain `Logger` for every connection, past
    the filter.
    """
    logger = logging.getLogger(f"exai.transports.{library}")
    logger.addFilter(_has_traceback)
    return logging.LoggerAdapter(logger)


def hush(logger: str) -> None:
    """Keep a logger that a library uses by name to what comes with a traceback."""
    logging.getLogger(logger).addFilter(_has_traceback)


def _has_traceback(record: logging.LogRecord) -> bool:
    return bool(record.exc_info)
