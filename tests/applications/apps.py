"""Applications of real frameworks that keep connections or threads open; each is made by a factory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

NOTEBOOK = """
import marimo

app = marimo.App()

@app.cell
def _():
    import marimo as mo
    mo.md("hello")
"""


def make_events() -> Any:
    """sse-starlette: an event, and then a ping now and then."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.routing import Route

    async def tick() -> AsyncIterator[dict[str, str]]:
        yield {"data": "first"}
        await asyncio.Event().wait()

    async def events(request: Request) -> Any:
        return import_module("sse_starlette").EventSourceResponse(tick())

    return Starlette(routes=[Route("/", events)])


def make_mcp() -> Any:
    """fastmcp over streamable HTTP."""
    return import_module("fastmcp").FastMCP("tools").http_app(path="/")


def make_socketio() -> Any:
    """python-socketio, whose long polls last until its next ping."""
    socketio = import_module("socketio")
    return socketio.ASGIApp(socketio.AsyncServer(async_mode="asgi", ping_interval=2))


def make_marimo() -> Any:
    """A notebook, whose executor has a thread that never ends."""
    notebook = Path(mkdtemp()) / "notebook.py"
    notebook.write_text(NOTEBOOK)
    return import_module("marimo").create_asgi_app().with_app(path="", root=str(notebook)).build()
