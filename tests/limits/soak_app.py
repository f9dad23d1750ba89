"""The application of the soak: echoes, fails, closes, talks, and counts what the process holds."""

from __future__ import annotations

import asyncio
import gc
import sys

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send, echo


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Dispatch by path."""
    path = scope["path"]
    if path == "/raise":
        raise RuntimeError("a fault of the application")
    if scope["type"] == "http" and path in ("/tasks", "/blocks"):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if path == "/blocks":
            gc.collect()
        count = len(asyncio.all_tasks()) if path == "/tasks" else sys.getallocatedblocks()
        await send({"type": "http.response.body", "body": str(count).encode()})
    elif scope["type"] == "http" and path == "/half":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
    elif scope["type"] == "websocket" and path != "/":
        await receive()
        if path == "/refuse":
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        if path == "/close":
            await send({"type": "websocket.close", "code": 4000, "reason": "enough"})
        while path == "/talk":
            await send({"type": "websocket.send", "bytes": bytes(20000)})
        if (await receive())["type"] == "websocket.receive":
            raise RuntimeError("a fault of the application in a message")
    else:
        await echo(scope, receive, send)
