"""The application of the storm: it looks up a session for 50 ms before it accepts, and echoes then."""

from __future__ import annotations

import asyncio

from tests.bench.apps import Event, Receive, Send

LOOKUP_S = 0.05
AT_ONCE = "/at-once"
"""Where it accepts at once."""


async def storm(scope: Event, receive: Receive, send: Send) -> None:
    """The application."""
    if scope["type"] != "websocket":
        raise RuntimeError("no lifespan")
    await receive()
    if scope["path"] != AT_ONCE:
        await asyncio.sleep(LOOKUP_S)
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})
