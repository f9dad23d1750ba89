"""A room with a live board, as a FastAPI application: what people say, and which processes serve them.

The room is a topic, so it reaches everybody whom the workers of this server serve. With a broker, as compose.yaml has
one, it reaches everybody on all servers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse

from asgiws import Topic, TopicsUnavailable

TEXT_LIMIT: Final = 500  # characters
BOARD_INTERVAL_S: Final = 1.0
PAGE: Final = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
PROCESS: Final = {"host": socket.gethostname(), "process": os.getpid()}


class Room:
    """The part of the room that this process serves."""

    def __init__(self) -> None:
        self.topic = Topic("room")
        self.viewers = 0
        self.said = 0

    def board(self) -> dict[str, object]:
        """Return what this process adds to the board."""
        return {**PROCESS, "viewers": self.viewers, "said": self.said}

    async def publish_board(self) -> None:
        """Publish it each second; every process does, and the page adds up."""
        while True:
            with contextlib.suppress(TopicsUnavailable):  # the next board replaces this one
                await self.topic.publish(json.dumps({"type": "board", **self.board()}))
            await asyncio.sleep(BOARD_INTERVAL_S)

    async def serve(self, websocket: WebSocket) -> None:
        """Serve one viewer until it has left. The server delivers what is published, and drops who does not read."""
        async with self.topic.subscribed(websocket):
            self.viewers += 1
            try:
                await websocket.send_json({"type": "welcome", **PROCESS})  # from here on, it misses nothing
                async for text in websocket.iter_text():
                    if 0 < len(text.strip()) <= TEXT_LIMIT:
                        self.said += 1
                        await self.topic.publish(json.dumps({"type": "said", "text": text.strip(), **PROCESS}))
            finally:
                self.viewers -= 1


room: Final = Room()


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Publish the board from the start of the process to its end."""
    board = asyncio.create_task(room.publish_board())
    yield
    board.cancel()


app: Final = FastAPI(lifespan=lifespan, openapi_url=None)


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    """Return the page."""
    return PAGE


@app.get("/health")
async def health() -> dict[str, object]:
    """Return whether the application works. A real one asks its database; /readyz of asgiws reports the server."""
    return {"ok": True, **room.board()}


@app.websocket("/room")
async def join(websocket: WebSocket) -> None:
    """Let one viewer in."""
    await websocket.accept()
    await room.serve(websocket)
