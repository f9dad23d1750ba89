"""Applications of real frameworks that answer with files; each is made by a factory."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def make_gradio() -> Any:
    """A page of Gradio."""
    gradio = import_module("gradio")
    with gradio.Blocks() as page:
        gradio.Markdown("hello")
    return gradio.mount_gradio_app(import_module("fastapi").FastAPI(), page, path="/")


def make_quart() -> Any:
    """A download of Quart, which sends a body in pieces and then an empty last one."""
    app = import_module("quart").Quart("downloads")

    @app.get("/file")  # type: ignore[untyped-decorator]  # Quart is optional here
    async def file() -> bytes:
        return bytes(220_000)

    return app
