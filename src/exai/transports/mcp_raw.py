"""Messages of MCP that pass through untouched, in the shape in which the SDK sends its own."""

from typing import Any

from pydantic import BaseModel, RootModel


class RawMessage(BaseModel):
    """A request or a notification to a client."""

    method: str
    params: dict[str, Any]


class RawResult(RootModel[dict[str, Any]]):
    """Whatever a client answered."""
