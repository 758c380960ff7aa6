"""What a child process may see of the daemon's environment.

Knows which names are safe to hand on; refuses to know where the environment is read.
"""

from collections.abc import Mapping

_SAFE_NAMES = frozenset(
    {
        "HOME",
        "LANG",
        "LANGUAGE",
        "LOGNAME",
        "PATH",
        "SHELL",
        "TERM",
        "TMPDIR",
        "TZ",
        "USER",
        "CURL_CA_BUNDLE",
        "NODE_EXTRA_CA_CERTS",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
    }
)
_SAFE_PREFIXES = ("LC_", "XDG_")
_PROXY_NAMES = frozenset({"ALL_PROXY", "FTP_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})


def child_environment(base: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """Return the safe part of `base`, overlaid with the child's `own` variables.

    Never the daemon's settings or keys; a proxy is handed on unless its address holds a
    password; a value that is an exported shell function is not.
    """
    safe = {name: value for name, value in base.items() if _is_safe(name, value)}
    return safe | dict(own)


def _is_safe(name: str, value: str) -> bool:
    if value.startswith("()"):
        return False
    if name.upper() in _PROXY_NAMES:
        return "@" not in value
    return name in _SAFE_NAMES or name.startswith(_SAFE_PREFIXES)
