"""The topics that one WebSocket subscribes to, and the delivery of their messages to it.

Made with the first subscription; a connection without one has none of this. Deliveries go through the cork when frames
wait there, so that they keep their place among what the application sends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Final

from asgiws.protocol.websocket.closing import Close, State
from asgiws.protocol.websocket.encoder import Encoder
from asgiws.server.asgi import ClientDisconnected, Event
from asgiws.server.websocket.connection import WebSocketConnection
from asgiws.server.websocket.cork import CORK_MOST_BYTES, Cork
from asgiws.topics.extension import PUBLISH, SUBSCRIBE, TopicsExtension, check_event
from asgiws.topics.history import Position
from asgiws.topics.message import Message, check_data

__all__ = ["ConnectionExtension", "Subscriptions", "subscriptions_of"]

_OPEN: Final = State.OPEN
"""Where a message passes, a name is faster than an attribute."""
_MISSED: Final = Close(1012, "missed messages of a topic")


class Subscriptions:
    """The subscriber that the hub knows a connection by."""

    __slots__ = ("_connection", "_topics")

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self._topics: list[str] = []

    # ---- called by the application, through `asgiws.Topic` or with events

    async def subscribe(self, topic: str, *, skip_when_slow: bool = False) -> bool:
        """Subscribe to a topic; return whether it is new.

        Raises RuntimeError before the accept, and ClientDisconnected after the end.
        """
        self._check_open()
        if topic in self._topics:
            await self._connection.worker.topics.subscribe(topic, self, skip_when_slow=skip_when_slow)
            return False
        with self._subscribing(topic):
            await self._connection.worker.topics.subscribe(topic, self, skip_when_slow=skip_when_slow)
        return True

    async def resume(self, topic: str, since: Position, *, skip_when_slow: bool = False) -> bool:
        """Subscribe, and first send what was published after a position; return whether nothing is missing.

        Raises RuntimeError before the accept and for a topic that is subscribed, ClientDisconnected after the end.
        """
        self._check_open()
        hub = self._connection.worker.topics
        if topic in self._topics:
            return await hub.resume(topic, self, since)  # which says what is wrong
        with self._subscribing(topic):
            return await hub.resume(topic, self, since, skip_when_slow=skip_when_slow)

    @contextlib.contextmanager
    def _subscribing(self, topic: str) -> Iterator[None]:
        """Leave no subscription behind that failed, or whose connection ended meanwhile."""
        self._topics.append(topic)
        try:
            yield
            self._check_open()
        except BaseException:
            self.unsubscribe(topic)
            raise

    def unsubscribe(self, topic: str) -> bool:
        """Unsubscribe from a topic; return whether it was subscribed."""
        if topic not in self._topics:
            return False
        self._topics.remove(topic)
        return self._connection.worker.topics.unsubscribe(topic, self)

    async def send(self, message: Event) -> None:
        """Act on an event of the ASGI extension `websocket.topics`."""
        hub, event = self._connection.worker.topics, check_event(message)
        topic = hub.prefix + event.topic
        if event.kind == PUBLISH:
            data = check_data(event.data, hub.publish_most_bytes)
            await hub.publish(Message(topic, data, self if event.exclude_self else None))
        elif event.kind == SUBSCRIBE:
            await self.subscribe(topic, skip_when_slow=event.skip_when_slow)
        else:
            self.unsubscribe(topic)

    def _check_open(self) -> None:
        closing = self._connection.closing
        if closing.state < State.OPEN:
            raise RuntimeError("subscribe before the websocket is open, allowed: after websocket.accept")
        if closing.state > State.OPEN:
            code = closing.final(self._connection.inbox).code
            raise ClientDisconnected(f"subscribe after the websocket was closed ({code})")

    # ---- called by the hub

    @property
    def encoder(self) -> Encoder:
        """What encodes the messages of the connection."""
        return self._connection.encoder

    def deliver(self, message: Message, skip_when_slow: bool, hold: bool) -> bool:
        """Write a message, or hold it in the cork until `flush`; return whether it was taken. Never wait."""
        connection = self._connection
        transport = connection.transport
        if connection.closing.state != _OPEN or transport.is_closing():
            return False
        encoder = connection.encoder
        if message.is_large and not encoder.shared:  # it is not compressed for each connection by itself
            encoder = connection.worker.encoders.plain
        frame = message.frames.get(encoder) or message.frame_for(encoder)
        frame_bytes, cork = len(frame), connection.cork
        if (
            connection.flow.write_paused
            and connection.unsent_bytes + frame_bytes > connection.worker.config.topic_backlog
        ):
            if not skip_when_slow:
                connection.drop_slow_consumer()
            return False
        connection.messages_out += 1
        connection.bytes_out += frame_bytes
        if hold or cork is not None or connection.inbox:
            if cork is None:
                cork = connection.cork = Cork()
                if not hold:
                    connection.worker.loop.call_soon(connection.flush)
            cork.frames.append(frame)
            cork.held_bytes += frame_bytes
            if cork.held_bytes > CORK_MOST_BYTES:
                connection.flush()
        else:
            transport.write(frame)
        return True

    def flush(self) -> None:
        """Write what was held."""
        self._connection.flush()

    async def deliver_past(self, messages: Iterable[Message]) -> None:
        """Write what was published before, no faster than the client reads; stop when the connection ends."""
        connection = self._connection
        flow = connection.flow
        for message in messages:
            if flow.write_paused:
                connection.flush()
                while flow.write_paused:
                    await flow.wait_writable()
            if not self.deliver(message, False, True):
                break
        connection.flush()

    def on_gap(self, topic: str) -> None:
        """Close the connection: the client has missed a message, and gets the current state when it reconnects."""
        if self._connection.closing.state == State.OPEN:
            self._connection.begin_close(_MISSED, "server")

    # ---- called by the connection

    def end(self) -> None:
        """Remove all subscriptions."""
        for topic in self._topics:
            self._connection.worker.topics.unsubscribe(topic, self)
        self._topics.clear()


def subscriptions_of(connection: WebSocketConnection) -> Subscriptions:
    """Return the subscriptions of a connection; made when first asked for."""
    subscriptions = connection.subscriptions
    if not isinstance(subscriptions, Subscriptions):
        connection.subscriptions = subscriptions = Subscriptions(connection)
    return subscriptions


class ConnectionExtension(TopicsExtension):
    """What the scope of a connection carries, for topics and for a drain."""

    __slots__ = ("connection",)

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection

    @property
    def subscriber(self) -> Subscriptions:
        """The connection as a subscriber."""
        return subscriptions_of(self.connection)
