"""Options that several commands take, each with one name and one sentence."""

from pathlib import Path
from typing import Annotated, Literal

import typer

ConfigFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The exai.toml to read.", show_default=False),
]
McpConfig = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A file with `mcpServers`.", show_default=False),
]
StateDir = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="What the daemon keeps is here.", show_default=False),
]
Host = Annotated[
    str | None, typer.Option(metavar="HOST", help="Listen here (127.0.0.1).", show_default=False)
]
Port = Annotated[
    int | None,
    typer.Option(metavar="PORT", help="The WebSocket port (8079).", show_default=False),
]
HttpPort = Annotated[
    int | None, typer.Option(metavar="PORT", help="The HTTP port (8082).", show_default=False)
]
Store = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Keep accepted calls in sqlite (default), or in memory, until the end.",
        show_default=False,
    ),
]
Url = Annotated[
    str | None,
    typer.Option(metavar="URL", help="The daemon's ws:// address.", show_default=False),
]
HttpUrl = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="The address of the daemon's HTTP port.", show_default=False
    ),
]
As = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Call as this principal.", show_default=False),
]
Output = Annotated[
    Literal["text", "json"], typer.Option("--output", "-o", help="For people or for programs.")
]
