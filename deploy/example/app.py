"""A room with a live board, as a FastAPI application: what people say, and who serves them.

Each process has a room of its own: what is said reaches everybody whom the same process serves, and the page says which
process that is. To reach everybody behind all processes and machines, put a broker between them: publish in `say`,
subscribe in `lifespan`, and let the subscription call `Room.broadcast`.
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

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse

TEXT_LIMIT: Final = 500  # characters
BOARD_INTERVAL_S: Final = 1.0
PAGE: Final = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


class Room:
    """Those whom this process serves."""

    def __init__(self) -> None:
        self.viewers: set[WebSocket] = set()
        self.said = 0

    async def broadcast(self, **event: object) -> None:
        """Send an event to everybody; it is made once, and asgiws encodes and compresses it once."""
        text = json.dumps(event)
        # All at once: a viewer that does not read holds up its own `send_text`, and nobody else's.
        await asyncio.gather(*(self._send(viewer, text) for viewer in self.viewers))

    async def _send(self, viewer: WebSocket, text: str) -> None:
        # This one has left; its own handler is about to hear of it.
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await viewer.send_text(text)

    async def show_board(self) -> None:
        """Tell everybody each second who serves them."""
        while True:
            await self.broadcast(type="board", **self.board())
            await asyncio.sleep(BOARD_INTERVAL_S)

    def board(self) -> dict[str, object]:
        """Give what the board shows."""
        return {"host": socket.gethostname(), "process": os.getpid(), "viewers": len(self.viewers), "said": self.said}


room: Final = Room()


@contextlib.asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Show the board from the start of the process to its end."""
    board = asyncio.create_task(room.show_board())
    yield
    board.cancel()


app: Final = FastAPI(lifespan=lifespan, openapi_url=None)


@app.get("/", response_class=HTMLResponse)
async def page() -> str:
    """The page."""
    return PAGE


@app.get("/health")
async def health() -> dict[str, object]:
    """Whether the application works; a real one asks its database. Whether the server does, says its /readyz."""
    return {"ok": True, **room.board()}


@app.websocket("/room")
async def join(websocket: WebSocket) -> None:
    """Serve one viewer until it has left."""
    await websocket.accept()
    room.viewers.add(websocket)
    try:
        await websocket.send_text(json.dumps({"type": "board", **room.board()}))
        async for text in websocket.iter_text():
            if 0 < len(text.strip()) <= TEXT_LIMIT:
                room.said += 1
                await room.broadcast(type="said", text=text.strip(), process=os.getpid())
    finally:
        room.viewers.discard(websocket)
