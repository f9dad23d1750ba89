"""The application that the floods are driven against; each path is a kind of application."""

from __future__ import annotations

import asyncio

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send, refuse_lifespan

sent_count = 0


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Dispatch by path."""
    await refuse_lifespan(scope)
    path = scope["path"]
    if scope["type"] == "http":
        if path == "/deaf":
            await asyncio.Event().wait()
        body = str(sent_count).encode() if path == "/sent" else b"x" * 4096
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})
        return
    await receive()
    if path == "/undecided":
        await asyncio.Event().wait()
    await send({"type": "websocket.accept"})
    if path == "/talker":
        await talk(send)
    elif path == "/deaf":
        await asyncio.Event().wait()
    else:
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(event.get("text") or event.get("bytes") or ""))})


async def talk(send: Send) -> None:
    """Send for ever, and count."""
    global sent_count
    message = "x" * 65536
    while True:
        await send({"type": "websocket.send", "text": message})
        sent_count += 1
