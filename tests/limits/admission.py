"""An application that answers handshakes when the test says so, and what a server says of those that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from asgiws.server.asgi import Event, Scope
from tests import PATIENCE_S
from tests.apps import Receive, Recorder, Send, messages, refuse_lifespan, say
from tests.conftest import RunningServer
from tests.raw import Answer, RawClient, handshake

ANSWERS: dict[str, list[Event]] = {
    "accept": [{"type": "websocket.accept"}],
    "close": [{"type": "websocket.close"}],
    "response": [
        {"type": "websocket.http.response.start", "status": 401, "headers": [(b"content-length", b"0")]},
        {"type": "websocket.http.response.body", "body": b""},
    ],
    "return": [],
    "raise": [],
}


class Doorman:
    """An application that holds each handshake, by its path, until the test lets it go on; then it echoes.

    One of a path that ends in `/works-on` does not return after its answer.
    """

    def __init__(self) -> None:
        self.asked = Recorder()
        """The paths of handshakes as they reach the application."""
        self.clients: dict[str, object] = {}
        self._doors: dict[str, asyncio.Event] = {}
        self._answers: dict[str, str] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await refuse_lifespan(scope)
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body"})
            return
        path = scope["path"]
        assert (await receive())["type"] == "websocket.connect"
        self.clients[path] = scope["client"]
        door = self._doors[path] = asyncio.Event()
        self.asked.put(path)
        await door.wait()
        for event in ANSWERS[self._answers[path]]:
            await send(event)
        if path.endswith("/works-on"):
            await asyncio.Event().wait()
        if self._answers[path] == "raise":
            raise RuntimeError("on order of the test")
        if self._answers[path] == "accept":
            async for message in messages(receive):
                await say(send, message)

    def answer(self, server: RunningServer, path: str, how: str = "accept") -> None:
        """Let a handshake go on."""
        self._answers[path] = how
        server.call(self._doors[path].set)


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what must become true."""
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.005)


def waiting(server: RunningServer) -> int:
    """How many handshakes wait for a place."""
    return int(server.call(server.server.report)["levels"]["connections"]["waiting"])


def begin(server: RunningServer, path: str, *fields: str) -> RawClient:
    """A client that has sent a handshake."""
    client = RawClient(server.port)
    client.send(handshake(path, *fields))
    return client


def queue(server: RunningServer, *paths: str) -> list[RawClient]:
    """Clients whose handshakes wait, in this order."""
    clients = []
    before = waiting(server)
    for count, path in enumerate(paths, 1):
        clients.append(begin(server, path))
        wait_until(lambda count=count: waiting(server) == before + count)  # type: ignore[misc]
    return clients


def retry_after(answer: Answer) -> int:
    """The seconds after which a refused client should return."""
    return int(answer.header(b"retry-after") or b"0")
