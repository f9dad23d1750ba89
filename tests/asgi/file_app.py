"""An application that sends the file which its query names, by the extension which its path names."""

from __future__ import annotations

from asgiws.server.asgi import Scope
from tests.apps import Receive, Send, refuse_lifespan


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Send a file as it is."""
    await refuse_lifespan(scope)
    path = scope["query_string"].decode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["path"] == "/pathsend":
        await send({"type": "http.response.pathsend", "path": path})
        return
    with open(path, "rb") as file:  # noqa: ASYNC230
        await send({"type": "http.response.zerocopysend", "file": file})
