"""Running a tool: the last step of a call's walk, where its result is measured."""

from typing import Any

import msgspec

from exai.core.errors import ResultTooLarge, ToolFailed
from exai.core.outcomes import Completed
from exai.core.tool import Tool, ToolRun

_encode = msgspec.json.Encoder().encode


class ToolExecutor:
    """Runs tools; knows how large a result may be."""

    def __init__(self, max_result_bytes: int) -> None:
        self._max_result_bytes = max_result_bytes

    async def execute(self, tool: Tool, arguments: dict[str, Any], run: ToolRun) -> Completed:
        """Return what the tool returns.

        Raises what the tool raises, and `ResultTooLarge`. Deadline and cancellation arrive
        as a `CancelledError` from whoever settled the call; the tool gives the work up
        before it lets that error out.
        """
        try:
            completed = await tool.run(arguments, run)
        except ToolFailed as failed:
            self._measure((failed.describe(), failed.outputs, failed.structured))
            raise
        self._measure(completed)
        return completed

    def _measure(self, result: object) -> None:
        size_bytes = len(_encode(result))
        if size_bytes > self._max_result_bytes:
            raise ResultTooLarge(
                f"the result has {size_bytes:,} bytes; at most {self._max_result_bytes:,} may be",
                size_bytes=size_bytes,
                max_bytes=self._max_result_bytes,
            )
