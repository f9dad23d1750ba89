"""The application under Autobahn: a plain ASGI echo.

Each WebSocket message goes back as it came, text as text and binary as binary. It imports nothing, so that what the
suite sees is the server's doing. An HTTP request gets 404.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


async def app(scope: Event, receive: Receive, send: Send) -> None:
    """Serve one ASGI scope."""
    if scope["type"] == "websocket":
        await _echo(receive, send)
    elif scope["type"] == "lifespan":
        await _live(receive, send)
    else:
        await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


async def _echo(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if text is not None:
            await send({"type": "websocket.send", "text": text})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


async def _live(receive: Receive, send: Send) -> None:
    while (event := await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": f"{event['type']}.complete"})
