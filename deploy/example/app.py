"""A room with a live board, as a FastAPI application: what people say, and which process serves them.

Each process has a room of its own: a message reaches everybody whom the same process serves, and the page shows which
process that is. To reach the viewers of all processes and machines, put a broker between them: publish in `join`,
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
WAITING_LIMIT: Final = 1_000  # messages; all queues hold the same texts, so they cost little
TOO_SLOW: Final = 1013  # try again later (IANA's registry of close codes)
BOARD_INTERVAL_S: Final = 1.0
PAGE: Final = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")


class Viewer:
    """One WebSocket of the room, and the messages that wait for it. Nobody else waits for a viewer that is slow."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._waiting: asyncio.Queue[str] = asyncio.Queue(WAITING_LIMIT)
        self._too_slow = False

    def tell(self, text: str) -> bool:
        """Add a message for this viewer; return False when too many wait already."""
        try:
            self._waiting.put_nowait(text)
        except asyncio.QueueFull:
            self._too_slow = True
        return not self._too_slow

    async def write(self) -> None:
        """Send what waits, until the viewer has left or was too slow.

        A viewer that reads nothing at all stays in `send_text` until asgiws drops it (--write-timeout).
        """
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it has left; `join` reads the same
            while not self._too_slow:
                await self._websocket.send_text(await self._waiting.get())
            await self._websocket.close(TOO_SLOW, "reads too slowly")


class Room:
    """The viewers whom this process serves."""

    def __init__(self) -> None:
        self.viewers: set[Viewer] = set()
        self.said = 0

    def broadcast(self, **event: object) -> None:
        """Send an event to every viewer; it is serialised once here, and encoded and compressed once by asgiws."""
        text = json.dumps(event)
        self.viewers -= {viewer for viewer in self.viewers if not viewer.tell(text)}

    async def show_board(self) -> None:
        """Send the board to every viewer each second."""
        while True:
            self.broadcast(type="board", **self.board())
            await asyncio.sleep(BOARD_INTERVAL_S)

    def board(self) -> dict[str, object]:
        """Return what the board shows."""
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
    """Return the page."""
    return PAGE


@app.get("/health")
async def health() -> dict[str, object]:
    """Return whether the application works. A real one asks its database; /readyz of asgiws reports the server."""
    return {"ok": True, **room.board()}


@app.websocket("/room")
async def join(websocket: WebSocket) -> None:
    """Serve one viewer until it has left."""
    await websocket.accept()
    viewer = Viewer(websocket)
    viewer.tell(json.dumps({"type": "board", **room.board()}))
    room.viewers.add(viewer)
    writing = asyncio.create_task(viewer.write())
    try:
        async for text in websocket.iter_text():
            if 0 < len(text.strip()) <= TEXT_LIMIT:
                room.said += 1
                room.broadcast(type="said", text=text.strip(), process=os.getpid())
                await asyncio.sleep(0)  # a turn for the writers, before a client that sends fast says more
    finally:
        room.viewers.discard(viewer)
        writing.cancel()
