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
from typing import Any, Final, Literal, NamedTuple

from asgiws.protocol.limits import KIB
from asgiws.topics.extension import EXTENSION, ConnectionSubscriber, TopicsExtension, find_extension
from asgiws.topics.fallback import FALLBACK
from asgiws.topics.history import START, Keep, Position, parse_position
from asgiws.topics.hub import Hub, find_hub
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message, TopicsUnavailable, check_data, check_name

__all__ = ["Subscription", "Topic", "TopicsUnavailable"]

_PUBLISH_MOST_BYTES: Final = 512 * KIB
_HISTORY_MOST: Final = 10_000
_TTL_MOST_S: Final = 7 * 86400


class Subscription(NamedTuple):
    """What became of a subscription."""

    recovered: bool
    """Whether everything that was missed has been sent; also true where nothing was asked for.

    False for a position that is too old, of another epoch (the server or the broker was restarted), or none at all.
    What is kept has been sent then, so that the client has the newest; what it knew before may not be what came before.
    """


class Topic:
    """A name that messages are published to.

    `name` has 1 to 200 visible ASCII characters. `slow` says what happens to a subscriber that does not read fast
    enough: "close" ends its connection (1006, slow consumer) once --topic-backlog bytes wait for it, "skip" leaves out
    messages until it has caught up. Raises ValueError or TypeError for another name.

    With `history`, the last so many messages are kept for `ttl` seconds (300 unless given), and each text arrives as
    `{"at": "epoch:offset", "data": "what was published"}`. A client that comes back says the last `at` that it has
    seen, and `subscribed(ws, since=at)` sends what it missed. Use the same values wherever you publish to the topic.

    Only the application subscribes: clients have no protocol for it.
    """

    __slots__ = ("_keep", "_skip", "name")

    def __init__(
        self, name: str, *, slow: Literal["close", "skip"] = "close", history: int = 0, ttl: float = 300
    ) -> None:
        self.name = check_name(name)
        if slow not in ("close", "skip"):
            raise ValueError(f"slow={slow!r}, allowed: 'close' or 'skip'")
        self._skip = slow == "skip"
        self._keep = _check_keep(history, ttl)

    def __repr__(self) -> str:
        return f"Topic({self.name!r})"

    async def publish(self, data: str | bytes, *, exclude: Any = None) -> None:
        """Publish a message to every subscriber; `exclude` is a WebSocket that does not get it.

        Works wherever the server's event loop runs: in HTTP routes, background tasks and start-up code. Returns once
        the bus has taken the message, not when it is delivered. All subscribers of a topic get its messages in the
        same order.

        Raises TypeError for what is neither str nor bytes, and for bytes with history; ValueError for more than
        --max-publish-size bytes. Nothing is published then. Raises TopicsUnavailable (an OSError) when the bus has not
        taken the message after five seconds; it may be delivered all the same.
        """
        hub = find_hub()
        data = check_data(data, _PUBLISH_MOST_BYTES if hub is None else hub.publish_most_bytes)
        if self._keep is not None and isinstance(data, bytes):
            raise TypeError("published bytes to a topic with history, allowed: str")
        if hub is None:
            FALLBACK.publish(Message(self.name, data, keep=self._keep), exclude)
            return
        connection = None if exclude is None else _connection_of(exclude, hub)
        await hub.publish(Message(hub.prefix + self.name, data, connection, self._keep))

    async def subscribe(self, websocket: Any, *, since: str | None = None) -> Subscription:
        """Deliver all that is published from now on to a WebSocket, until it ends or `unsubscribe` is called.

        Returns once the bus has confirmed it; a second call changes nothing. Raises RuntimeError before the WebSocket
        is accepted, ClientDisconnected (an OSError) after it was closed, and TopicsUnavailable.

        `since` is for a topic with history: what was published after that position is sent first, in order, without a
        hole and without a repetition before what is published from now on. It is the last `at` that a client has seen,
        as the client says it; "" for all that is kept, as for a client that has seen nothing; None for nothing. Raises
        RuntimeError when the WebSocket had subscribed before.
        """
        _, recovered = await self._subscribe(websocket, since)
        return Subscription(recovered)

    async def unsubscribe(self, websocket: Any) -> None:
        """Deliver no more to a WebSocket. What was published before is still on its way to the client."""
        self._unsubscribe(websocket)

    @contextlib.asynccontextmanager
    async def subscribed(self, websocket: Any, *, since: str | None = None) -> AsyncIterator[Subscription]:
        """Subscribe a WebSocket while the context lasts; see `subscribe`. An inner context of the same does nothing."""
        new, recovered = await self._subscribe(websocket, since)
        try:
            yield Subscription(recovered)
        finally:
            if new:
                self._unsubscribe(websocket)

    async def messages(self, *, limit: int = 100, since: str | None = None) -> AsyncIterator[str | bytes]:
        """Yield what is published from the first step on, for server code that listens; `since` as in `subscribe`.

        At most `limit` messages wait, and what is kept. Raises TopicsUnavailable when one was missed, because the
        reader was too slow, the bus lost it, or it is not kept any more; with `slow="skip"`, the reader misses what
        does not fit.
        """
        hub, listener, position = find_hub(), Listener(limit), self._position(since)
        name = self.name if hub is None else hub.prefix + self.name
        recovered = True
        if hub is None:
            recovered = FALLBACK.add(name, listener, position)
        elif position is None:
            await hub.subscribe(name, listener, skip_when_slow=self._skip)
        else:
            recovered = await hub.resume(name, listener, position, skip_when_slow=self._skip)
        try:
            if not recovered:
                raise TopicsUnavailable(f"what was published to {self.name} after {since} is not kept any more")
            while True:
                yield await listener.next()
        finally:
            if hub is None:
                FALLBACK.remove(name, listener)
            else:
                hub.unsubscribe(name, listener)

    async def count(self) -> int:
        """Return how many WebSockets subscribe, in all workers and, with a broker, on all machines.

        Exact for this worker; what others have is a second old, on other machines up to 15. Raises TopicsUnavailable.
        """
        hub = find_hub()
        return FALLBACK.count(self.name) if hub is None else await hub.count(hub.prefix + self.name)

    async def _subscribe(self, websocket: Any, since: str | None) -> tuple[bool, bool]:
        """Return whether the subscription is new, and whether all that was missed was sent."""
        hub, position = find_hub(), self._position(since)
        if hub is None:
            return await FALLBACK.subscribe(self.name, websocket, position)
        connection, name = _connection_of(websocket, hub), hub.prefix + self.name
        if position is None:
            return await connection.subscribe(name, skip_when_slow=self._skip), True
        return True, await connection.resume(name, position, skip_when_slow=self._skip)

    def _position(self, since: object) -> Position | None:
        """Return what `since=` says; None for nothing. Raises TypeError or ValueError."""
        if since is None:
            return None
        if not isinstance(since, str):
            raise TypeError(f"since={type(since).__name__}, allowed: a position as str, or None")
        if self._keep is None:
            raise ValueError(f"since= for {self!r}, allowed: for a topic with history=")
        return parse_position(since) if since else START

    def _unsubscribe(self, websocket: Any) -> None:
        hub = find_hub()
        if hub is None:
            FALLBACK.unsubscribe(self.name, websocket)
        else:
            _connection_of(websocket, hub).unsubscribe(hub.prefix + self.name)


def _check_keep(history: object, ttl: object) -> Keep | None:
    """Return how messages are kept; None for not at all. Raises TypeError or ValueError."""
    if not isinstance(history, int) or not isinstance(ttl, int | float):
        raise TypeError(f"history={history!r}, ttl={ttl!r}, allowed: a count and seconds")
    if not 0 <= history <= _HISTORY_MOST:
        raise ValueError(f"history={history}, allowed: 0 to {_HISTORY_MOST} messages")
    if not 1 <= ttl <= _TTL_MOST_S:
        raise ValueError(f"ttl={ttl:g}, allowed: 1 to {_TTL_MOST_S} seconds")
    return Keep(history, int(ttl)) if history else None


def _connection_of(websocket: Any, hub: Hub) -> ConnectionSubscriber:
    """Return the subscriptions of a framework's WebSocket, or of a scope. Raises TypeError or RuntimeError."""
    return find_extension(websocket, EXTENSION, TopicsExtension).subscriber
