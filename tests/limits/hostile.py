"""What may not reach a log, a header or a response as it is, and an application that sends all of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from asgiws.server.asgi import Event, Scope
from tests.apps import Receive, Send

NASTY: Final[Mapping[str, str]] = {
    "lf": "a\n2026-01-01 00:00:00,000 INFO    forged",
    "cr": "a\rforged",
    "crlf": "a\r\nX-Injected: forged",
    "nul": "a\0forged",
    "escape": "\x1b[2J\x1b]0;forged\x07",
    "delete": "a\x7f\x08\x08forged",
    "8-bit": "\x9b31mforged\xff\x85forged",
    "separators": "a\u2028forged\u2029\x0b\x0c\x1c\x1d\x1e",
    "bidirectional": "a\u202eforged",
    "surrogate": "a\ud800forged",
    "quote": '" 200 0 bytes "forged',
    "backslash": "\\x1b\\nforged",
    "long": "x" * 6000,
}


def raw(payload: str) -> bytes:
    """Give a payload as bytes; a lone surrogate becomes bytes that are no UTF-8."""
    return payload.encode("utf-8", "surrogatepass")


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Send what the path names: /where/which."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    _, where, *which = scope["path"].split("/")
    payload = NASTY.get(which[0] if which else "", "")
    if scope["type"] == "http":
        await answer(where, payload, send)
        return
    await receive()
    headers = [(b"x-a", raw(payload))]
    if where == "denial-header":
        await send({"type": "websocket.http.response.start", "status": 403, "headers": headers})
        await send({"type": "websocket.http.response.body"})
        return
    accept: Event = {"type": "websocket.accept"}
    if where == "accept-header":
        accept["headers"] = headers
    elif where == "subprotocol":
        accept["subprotocol"] = payload
    await send(accept)
    if where == "close-reason":
        await send({"type": "websocket.close", "code": 4000, "reason": payload[:60]})
    elif where == "exception":
        raise ValueError(payload)
    elif where == "bad-kind":
        await send({"type": payload})
    else:
        await receive()


async def answer(where: str, payload: str, send: Send) -> None:
    """Answer a request, with the payload in one place of the answer."""
    if where == "exception":
        raise ValueError(payload) from KeyError(payload)
    if where == "bad-kind":
        await send({"type": payload})
    if where == "early-hint":
        await send({"type": "http.response.early_hint", "links": [raw(payload)]})
    headers = {"header-name": [(raw(payload), b"v")], "header-value": [(b"x-a", raw(payload))]}.get(where, [])
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": where == "trailer"})
    await send({"type": "http.response.body", "body": b"body"})
    if where == "trailer":
        await send({"type": "http.response.trailers", "headers": [(b"x-a", raw(payload))]})


async def lifespan(receive: Receive, send: Send) -> None:
    """Fail when and how the environment says, with one payload or several joined by `+`."""
    fails, _, names = os.environ.get("HOSTILE_LIFESPAN", "").partition("/")
    message = "".join(NASTY[which] for which in names.split("+") if which)
    await receive()
    if fails == "raise":
        raise ValueError(message)
    if fails == "startup":
        await send({"type": "lifespan.startup.failed", "message": message})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    if fails == "shutdown":
        await send({"type": "lifespan.shutdown.failed", "message": message})
    else:
        await send({"type": "lifespan.shutdown.complete"})
