"""Who calls: the principal behind a token, and which tools it may see."""

from fnmatch import fnmatchcase

import msgspec


class Principal(msgspec.Struct, frozen=True):
    """A named identity. Nothing of one principal is visible to another."""

    name: str
    tools: tuple[str, ...] = ("*",)
    admin: bool = False
    may_rotate: bool = False

    @property
    def sees_everything(self) -> bool:
        """Tell whether no tool, and so no part of the daemon, is hidden from this principal."""
        return "*" in self.tools

    def may_use(self, tool_name: str) -> bool:
        """Tell whether one of this principal's globs matches the tool's name."""
        return self.sees_everything or any(fnmatchcase(tool_name, glob) for glob in self.tools)

    def may_see_resources(self, server: str) -> bool:
        """Tell whether this principal may see the resources of an MCP server."""
        return self.may_use(f"{server}__resources")
