"""What the daemon's own tools have in common: a schema of ours, checked whole."""

from typing import Any

from exai.core.tool import Tool
from exai.tools.argument_schema import OwnSchema


class OwnTool(Tool):
    """A tool of the daemon's own. A subclass has its `spec` as a class attribute."""

    def __init__(self) -> None:
        self._schema = OwnSchema(self.spec.input_schema)

    def check(self, arguments: dict[str, Any]) -> None:
        """Raise `ArgumentsInvalid` for whatever the schema does not allow."""
        self._schema.check(arguments)
