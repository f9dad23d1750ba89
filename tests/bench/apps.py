"""The plain ASGI application that every server is measured with.

HTTP: GET answers hello, POST reads the body and answers its length. WebSocket: `/broadcast` sends each message to
every client of that path, `/pause` tells how long the event loop has been kept from turning, everything else echoes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_CLIENTS: set[Send] = set()
_PAUSE_STEP_S = 0.002


async def plain(scope: Event, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] == "http":
        await _answer(scope, receive, send)
        return
    if scope["type"] != "websocket":
        raise RuntimeError("no lifespan")
    await receive()
    await send({"type": "websocket.accept"})
    if scope["path"] == "/broadcast":
        await _broadcast(receive, send)
    elif scope["path"] == "/pause":
        await _tell_pauses(receive, send)
    else:
        await _echo(receive, send)


async def _answer(scope: Event, receive: Receive, send: Send) -> None:
    body = b"hello"
    if scope["method"] == "POST":
        size = 0
        more = True
        while more:
            event = await receive()
            size += len(event.get("body", b""))
            more = event.get("more_body", False)
        body = b"%d" % size
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _echo(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            return
        text = event.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


async def _broadcast(receive: Receive, send: Send) -> None:
    _CLIENTS.add(send)
    try:
        while (event := await receive())["type"] == "websocket.receive":
            message = {"type": "websocket.send", "text": event["text"]}
            for client in list(_CLIENTS):
                await client(message)
    finally:
        _CLIENTS.discard(send)


async def _tell_pauses(receive: Receive, send: Send) -> None:
    """Answer each message with the longest pause of the loop since the one before, in microseconds."""
    pauses = _Pauses()
    try:
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(int(pauses.longest_s * 1e6))})
            pauses.longest_s = 0.0
    finally:
        pauses.stop()


class _Pauses:
    """Looks at the clock every 2 ms, and how late it was."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last_s = time.perf_counter()  # the loop's own clock may count in milliseconds
        self.longest_s = 0.0
        self._handle = self._loop.call_later(_PAUSE_STEP_S, self._look)

    def stop(self) -> None:
        self._handle.cancel()

    def _look(self) -> None:
        now = time.perf_counter()
        self.longest_s = max(self.longest_s, now - self._last_s - _PAUSE_STEP_S)
        self._last_s = now
        self._handle = self._loop.call_later(_PAUSE_STEP_S, self._look)
