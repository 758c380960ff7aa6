"""A server's URL as anybody may see it: some carry a key in their path or query."""

from urllib.parse import SplitResult, urlsplit

_PLAIN_LENGTH = 15
"""No longer part of a path is shown: it may be a key."""


def shown_url(url: str) -> str:
    """Return where a URL leads, without what may be secret of it."""
    try:
        parts = urlsplit(url)
        host = _host_of(parts)
    except ValueError:
        return "…"
    path = "/".join(_shown(part) for part in parts.path.split("/"))
    return f"{parts.scheme}://{host}{path}{'?…' if parts.query else ''}"


def secrets_in_url(url: str) -> set[str]:
    """Return what `shown_url` leaves out, to be left out of a server's words, too."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url}
    hidden = {part for part in parts.path.split("/") if _shown(part) != part}
    return {secret for secret in (*hidden, parts.query, parts.password) if secret}


def _host_of(parts: SplitResult) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return host if parts.port is None else f"{host}:{parts.port}"


def _shown(part: str) -> str:
    return part if len(part) <= _PLAIN_LENGTH else "…"
