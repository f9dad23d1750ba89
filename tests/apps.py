"""Small ASGI applications for tests, and one that writes down what it saw."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from asgiws.server.asgi import Event, Scope
from tests import PATIENCE_S

Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]


async def refuse_lifespan(scope: Scope) -> None:
    """Raise for a lifespan scope, as an application that has none."""
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Echo WebSocket messages; answer HTTP requests with their body."""
    await refuse_lifespan(scope)
    if scope["type"] == "http":
        body = b""
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event["body"]
            more = event["more_body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": body})
        return
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if "text" in event:
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


class Recorder:
    """What an application saw, readable from the test's thread as it happens."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()

    def put(self, item: object) -> None:
        self._queue.put(item)

    def next(self) -> Any:
        """The next thing the application saw; raises queue.Empty when nothing comes."""
        return self._queue.get(timeout=PATIENCE_S)

    @property
    def empty(self) -> bool:
        return self._queue.empty()


async def accept(scope: Scope, receive: Receive, send: Send, **answer: object) -> None:
    """Accept a WebSocket, with what `answer` adds: a subprotocol, headers."""
    await refuse_lifespan(scope)
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept", **answer})


async def messages(receive: Receive, ends: Recorder | None = None) -> AsyncIterator[str | bytes]:
    """Yield messages until the connection has ended; `ends` is told the code and the reason."""
    while (event := await receive())["type"] == "websocket.receive":
        yield event["text"] if "text" in event else event["bytes"]
    if ends is not None:
        ends.put((event["code"], event["reason"]))


async def say(send: Send, message: str | bytes) -> None:
    """Send one message: text for a `str`, binary for `bytes`."""
    await send({"type": "websocket.send", "text" if isinstance(message, str) else "bytes": message})
