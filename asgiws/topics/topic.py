"""`Topic`: publish to every subscriber, in this worker and in all workers of the machine.

    topic = Topic("room:1")
    await websocket.accept()
    async with topic.subscribed(websocket):     # from here on, the server delivers
        async for text in websocket.iter_text():
            await topic.publish(text)

Works in every framework whose WebSocket has a `scope` (Starlette, FastAPI, Quart, Litestar, Channels consumers), and
with the scope itself. Under another server, and under Starlette's `TestClient`, it works within the process.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, Literal

from asgiws.protocol.limits import KIB
from asgiws.topics.extension import EXTENSION, ConnectionSubscriber, TopicsExtension, find_extension
from asgiws.topics.fallback import FALLBACK
from asgiws.topics.hub import Hub, find_hub
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message, TopicsUnavailable, check_data, check_name

__all__ = ["Topic", "TopicsUnavailable"]

_PUBLISH_MOST_BYTES: Final = 512 * KIB


class Topic:
    """A name that messages are published to.

    `name` has 1 to 200 visible ASCII characters. `slow` says what happens to a subscriber that does not read fast
    enough: "close" ends its connection (1006, slow consumer) once --topic-backlog bytes wait for it, "skip" leaves out
    messages until it has caught up. Raises ValueError or TypeError for another name.

    Only the application subscribes: clients have no protocol for it.
    """

    __slots__ = ("_skip", "name")

    def __init__(self, name: str, *, slow: Literal["close", "skip"] = "close") -> None:
        self.name = check_name(name)
        if slow not in ("close", "skip"):
            raise ValueError(f"slow={slow!r}, allowed: 'close' or 'skip'")
        self._skip = slow == "skip"

    def __repr__(self) -> str:
        return f"Topic({self.name!r})"

    async def publish(self, data: str | bytes, *, exclude: Any = None) -> None:
        """Publish a message to every subscriber; `exclude` is a WebSocket that does not get it.

        Works wherever the server's event loop runs: in HTTP routes, background tasks and start-up code. Returns once
        the bus has taken the message, not when it is delivered. All subscribers of a topic get its messages in the
        same order.

        Raises TypeError for what is neither str nor bytes, and ValueError for more than --max-publish-size bytes;
        nothing is published then. Raises TopicsUnavailable (an OSError) when the bus has not taken the message after
        five seconds; it may be delivered all the same.
        """
        hub = find_hub()
        data = check_data(data, _PUBLISH_MOST_BYTES if hub is None else hub.publish_most_bytes)
        if hub is None:
            FALLBACK.publish(Message(self.name, data), exclude)
            return
        connection = None if exclude is None else _connection_of(exclude, hub)
        await hub.publish(Message(hub.prefix + self.name, data, connection))

    async def subscribe(self, websocket: Any) -> None:
        """Deliver all that is published from now on to a WebSocket, until it ends or `unsubscribe` is called.

        Returns once the bus has confirmed it; a second call changes nothing. Raises RuntimeError before the WebSocket
        is accepted, ClientDisconnected (an OSError) after it was closed, and TopicsUnavailable.
        """
        await self._subscribe(websocket)

    async def unsubscribe(self, websocket: Any) -> None:
        """Deliver no more to a WebSocket. What was published before is still on its way to the client."""
        self._unsubscribe(websocket)

    @contextlib.asynccontextmanager
    async def subscribed(self, websocket: Any) -> AsyncIterator[None]:
        """Subscribe a WebSocket while the context lasts; see `subscribe`. An inner context of the same does nothing."""
        new = await self._subscribe(websocket)
        try:
            yield
        finally:
            if new:
                self._unsubscribe(websocket)

    async def messages(self, *, limit: int = 100) -> AsyncIterator[str | bytes]:
        """Yield what is published from the first step on, for server code that listens.

        At most `limit` messages wait. Raises TopicsUnavailable when one was missed, because the reader was too slow or
        the bus lost it; with `slow="skip"`, the reader misses what does not fit.
        """
        hub, listener = find_hub(), Listener(limit)
        name = self.name if hub is None else hub.prefix + self.name
        if hub is None:
            FALLBACK.add(name, listener)
        else:
            await hub.subscribe(name, listener, skip_when_slow=self._skip)
        try:
            while True:
                yield await listener.next()
        finally:
            if hub is None:
                FALLBACK.remove(name, listener)
            else:
                hub.unsubscribe(name, listener)

    async def _subscribe(self, websocket: Any) -> bool:
        hub = find_hub()
        if hub is None:
            return FALLBACK.subscribe(self.name, websocket)
        connection = _connection_of(websocket, hub)
        return await connection.subscribe(hub.prefix + self.name, skip_when_slow=self._skip)

    def _unsubscribe(self, websocket: Any) -> None:
        hub = find_hub()
        if hub is None:
            FALLBACK.unsubscribe(self.name, websocket)
        else:
            _connection_of(websocket, hub).unsubscribe(hub.prefix + self.name)


def _connection_of(websocket: Any, hub: Hub) -> ConnectionSubscriber:
    """Return the subscriptions of a framework's WebSocket, or of a scope. Raises TypeError or RuntimeError."""
    return find_extension(websocket, EXTENSION, TopicsExtension).subscriber
