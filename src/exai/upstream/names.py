"""The names under which what an MCP server has is offered to clients.

Pure: knows which names every client and every model's service takes, and how others become
such names, the same at every start; knows neither what is named nor who else has the name.
"""

import hashlib
import re
from collections.abc import Collection, Mapping

import msgspec

from exai.core.config import UpstreamConfig

MAX_NAME_LENGTH = 64
NAMES = f"1 to {MAX_NAME_LENGTH} of a-z, A-Z, 0-9, _ and -"

_OFFERABLE = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_LENGTH}}}\Z")
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
_DIGEST_LENGTH = 8


def is_offerable(name: str) -> bool:
    """Tell whether every client takes this name."""
    return _OFFERABLE.match(name) is not None


def offerable(name: str) -> str:
    """Return the name that stands for `name`: itself, if every client takes it.

    Other characters become `_`; a name that is too long ends with a digest of all of it.
    """
    taken = _FOREIGN.sub("_", name)
    if len(taken) <= MAX_NAME_LENGTH:
        return taken
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{taken[: MAX_NAME_LENGTH - _DIGEST_LENGTH - 1]}_{digest}"


class Namespace(msgspec.Struct, frozen=True):
    """How one server's names are offered: behind `prefix`, or as they were `renamed`."""

    prefix: str
    renamed: Mapping[str, str] = {}

    def name_of(self, own: str) -> str:
        """Return what the server's `own` name is offered as."""
        return self.renamed.get(own) or offerable(self.prefix + own)

    def may_hold(self, name: str) -> bool:
        """Tell whether something of the server may be offered under this name."""
        return name.startswith(self.prefix) or name in self.renamed.values()

    def assign(self, owns: Collection[str]) -> dict[str, str]:
        """Return the offered name of each of the server's `owns`, save those that find it taken.

        Of two that would have one name the renamed keeps it, then the one that is offered
        as it is, then the first in the alphabet: in whatever order the server lists them.
        """
        holders: dict[str, str] = {}
        for own in sorted(owns, key=self._precedence):
            holders.setdefault(self.name_of(own), own)
        return {own: name for name, own in holders.items()}

    def _precedence(self, own: str) -> tuple[bool, bool, str]:
        return own not in self.renamed, self.name_of(own) != self.prefix + own, own


def namespace_of(server: str, config: UpstreamConfig) -> Namespace:
    """Return how the names of a configured server's tools are offered."""
    prefix = _FOREIGN.sub("_", f"{server}__") if config.prefix is None else config.prefix
    renamed = {own: said["name"] for own, said in config.tools.items() if "name" in said}
    return Namespace(prefix, renamed)


def namespaces_of(configs: Mapping[str, UpstreamConfig]) -> dict[str, Namespace]:
    """Return how each server that is not disabled offers its names, in the order of the file."""
    return {name: namespace_of(name, each) for name, each in configs.items() if not each.disabled}
