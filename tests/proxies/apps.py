"""The application behind the proxies: says what it was told of the client, and prints what happens to its sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from urllib.parse import parse_qs

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send, accept, say
from tests.runner.apps import answer, lifespan, open_websocket, tell


def facts_of(scope: Scope) -> bytes:
    """What a scope says of where its request comes from, as JSON; of fields that came twice, the last."""
    facts = {name: scope[name] for name in ("type", "client", "scheme", "root_path", "path", "http_version")}
    headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
    return json.dumps(facts | {"headers": headers, "raw_path": scope["raw_path"].decode()}).encode()


class Behind:
    """An application.

    HTTP
    /length     answers with the length of the body
    /stream     answers "one", and "two" once somebody has asked for /go
    /endless    answers "begun", and nothing more until the client has gone
    others      answer with what the scope says

    WebSocket
    /closing    accepts and closes with 4002 "over"
    /denied     answers 418 in place of the handshake
    others      accept a subprotocol "chat", send what the scope says if the query is facts=1, and echo
    """

    def __init__(self, tell: Callable[..., None] = tell) -> None:
        self._tell = tell
        self._go = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await self._websocket(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._tell("http", scope["path"])
        if scope["path"] == "/stream":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await self._go.wait()
            await send({"type": "http.response.body", "body": b"two"})
        elif scope["path"] == "/endless":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"begun", "more_body": True})
            while (await receive())["type"] != "http.disconnect":
                pass
            self._tell("http ended")
        elif scope["path"] == "/length":
            size, more = 0, True
            while more:
                event = await receive()
                size, more = size + len(event.get("body", b"")), event.get("more_body", False)
            await answer(send, str(size).encode())
        else:
            if scope["path"] == "/go":
                self._go.set()
            await answer(send, facts_of(scope))

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/closing":
            await open_websocket(receive, send)
            await send({"type": "websocket.close", "code": 4002, "reason": "over"})
            return
        if scope["path"] == "/denied":
            headers = [(b"content-length", b"3")]
            await send({"type": "websocket.http.response.start", "status": 418, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"tea"})
            return
        await accept(scope, receive, send, subprotocol="chat" if "chat" in scope["subprotocols"] else None)
        if b"facts" in parse_qs(scope["query_string"]):
            await say(send, facts_of(scope).decode())
        self._tell("open")
        while (event := await receive())["type"] == "websocket.receive":
            await say(send, event["text"] if "text" in event else event["bytes"])
        self._tell("websocket.disconnect", event["code"], event["reason"])


behind = Behind()
