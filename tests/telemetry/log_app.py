"""An application for the tests of logs: its paths say what it does."""

from __future__ import annotations

import asyncio
import warnings

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send, refuse_lifespan


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await refuse_lifespan(scope)
    if scope["type"] == "http":
        if scope["path"] == "/raise":
            raise ValueError("\x1b[2J\x9b31m\u2028forged\n2026-01-01 00:00:00,000 INFO     forged")
        if scope["path"] == "/warn":
            warnings.warn("\x1b[2J\x9b31m\nforged", stacklevel=1)
        if scope["path"] == "/half":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
            await asyncio.Event().wait()
        if scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200})
            while True:
                await send({"type": "http.response.body", "body": bytes(1 << 16), "more_body": True})
        if scope["path"] == "/task":
            asyncio.get_running_loop().create_task(fail())
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
        await send({"type": "http.response.body", "body": b"hello"})
        return
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/refuse":
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/late":
        await receive()
        return
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while (event := await receive())["type"] == "websocket.receive":
        if scope["path"] == "/raise":
            raise ValueError("as it was told")
        await send({"type": "websocket.send", "text": event["text"]})


async def fail() -> None:
    """Raise where nobody awaits it."""
    raise ValueError("\x1b[2J forged")
