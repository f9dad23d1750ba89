"""The application that client libraries talk to: what it does is in the path and the query."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import parse_qs

from asgiws.server.asgi import Scope
from tests.apps import Receive, Recorder, Send, accept, messages, refuse_lifespan, say


class Partner:
    """A WebSocket application.

    /echo       sends each message back
    /protocol   accepts the first offered subprotocol of chat.v2 and chat.v1, then echoes
    /scope      sends what it knows of the handshake as JSON, then echoes
    /close      closes with the query's code and reason
    /return     returns at once, /raise raises, /refuse closes before it accepts
    /deny       answers with the query's status, with a Location where there is one
    /sizes      sends a binary message of as many bytes as each text message says
    /hall       sends each message to all that are in it, and says "n here" to them when somebody comes
    """

    def __init__(self) -> None:
        self.ends = Recorder()
        """Code and reason of every connection that the application saw end."""
        self.heard = Recorder()
        """Each message that was echoed."""
        self._hall: set[Send] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        path = scope["path"]
        query = {name: values[0] for name, values in parse_qs(scope["query_string"].decode()).items()}
        if path == "/refuse":
            await send({"type": "websocket.close"})
        elif path == "/deny":
            headers = [(b"content-length", b"6")]
            if "location" in query:
                headers.append((b"location", query["location"].encode()))
            status = int(query["status"])
            await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": b"denied"})
        elif path == "/hall":
            await self._visit(scope, receive, send)
        else:
            spoken = ("chat.v2", "chat.v1") if path == "/protocol" else ()
            subprotocol = next((name for name in scope["subprotocols"] if name in spoken), None)
            await accept(scope, receive, send, subprotocol=subprotocol, headers=[(b"x-served-by", b"partner")])
            await self._talk(path, query, scope, receive, send)

    async def _talk(self, path: str, query: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        if path == "/return":
            return
        if path == "/raise":
            raise RuntimeError("as asked")
        if path == "/close":
            event = {"type": "websocket.close", "reason": query.get("reason", "")}
            await send(event | ({"code": int(query["code"])} if "code" in query else {}))
        if path == "/scope":
            headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
            known = {"headers": headers, "query": query, "subprotocols": scope["subprotocols"]}
            await say(send, json.dumps(known))
        async for message in messages(receive, self.ends):
            if path == "/sizes":
                await say(send, b"\0" * int(message))
            else:
                self.heard.put(message)
                await say(send, message)

    async def _visit(self, scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        self._hall.add(send)
        await self._tell(f"{len(self._hall)} here")
        async for message in messages(receive):
            await self._tell(message)
        self._hall.discard(send)

    async def _tell(self, message: str | bytes) -> None:
        await asyncio.gather(*(say(send, message) for send in self._hall))
