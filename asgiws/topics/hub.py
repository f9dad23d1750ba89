"""The hub of one event loop: which connections subscribe to which topics, and the delivery of what is published.

    publish -> Bus -> Hub.deliver -> Subscriber.deliver -> the socket

Without a bus, `publish` delivers at once. With one (`asgiws.topics.relay_client`), every message goes through it, also
to the subscribers of this worker: so all subscribers of a topic see one order, the publisher's own socket included.

Delivery takes turns: after so many deliveries the loop serves others first. Messages that were taken from the bus
together leave a socket in one write. A message is encoded once for each encoder that connections share.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from asgiws.schedule import spread
from asgiws.topics.message import Message, Subscriber, TopicsUnavailable

__all__ = ["Bus", "Hub", "find_hub", "join_hub", "leave_hub"]

_LOG: Final = logging.getLogger("asgiws")
# Deliveries after which the loop turns: about two milliseconds of writing to sockets.
_TURN_COUNT: Final = 1000
# What may wait for delivery before publishers wait, and the bus is not read.
_WAITING_MOST: Final = 4 * 1024 * 1024
# Every so many messages that are published without a pause, the loop turns.
_PUBLISH_TURN_COUNT: Final = 128
# Subscribers that missed something are closed over this time, so that they do not all come back at once.
_GAP_SPREAD_S: Final = 5.0
# For the bus to confirm a subscription
_CONFIRM_MOST_S: Final = 5.0


class Bus(Protocol):
    """What carries messages between the workers."""

    def subscribe(self, topic: str) -> asyncio.Future[None]:
        """Return what is done once everything that is published from then on will be delivered.

        It fails, or this raises, with TopicsUnavailable when the bus is away. Otherwise it may take any time.
        """

    def unsubscribe(self, topic: str) -> None:
        """Deliver the topic no more."""

    async def publish(self, message: Message) -> None:
        """Return once the bus has taken the message. Raises TopicsUnavailable when it is full for long, or away."""

    def on_drained(self) -> None:
        """Read on: what was handed over is delivered."""

    def probe(self) -> None:
        """Measure how long a message takes to the bus and back: `Hub.on_bus_lag` is called with it."""


class _Entry:
    """One topic with its subscribers."""

    __slots__ = ("confirmed", "subscribers")

    def __init__(self) -> None:
        self.subscribers: dict[Subscriber, bool] = {}
        """Each with whether it misses messages while it is slow, instead of being closed."""
        self.confirmed: asyncio.Future[None] | None = None
        """Done once the bus has confirmed the subscription; None while it was not asked."""


class Hub:
    """The topics of one event loop. All of it belongs to that loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._entries: dict[str, _Entry] = {}
        self._unused: set[str] = set()
        """Topics whose last subscriber has left; the bus learns of it a second later, as somebody may come back."""
        self._queue: deque[Message] = deque()
        self.waiting_size = 0
        """Characters and bytes of the messages in the queue."""
        self._rest: list[Subscriber] = []
        """The subscribers, in reverse, that the first message of the queue still has to reach."""
        self._delivering: asyncio.Task[None] | None = None
        self._bus: Bus | None = None
        self.server_count = 0
        self.prefix = ""
        """Set before the names of all topics (`--topic-prefix`)."""
        self.publish_most_bytes = 0
        """Limit of a payload (`--max-publish-size`)."""
        self.published = 0
        self.delivered = 0
        self.skipped = 0
        """Deliveries left out because a subscriber was slow."""
        self.gaps = 0
        """Topics of which this worker missed messages, each time."""
        self.encoded = 0
        """Frames that were made of published messages."""
        self.ends_at_gap = True
        """Whether subscribers that missed something are closed (`--topic-gap`)."""
        self.on_deaf: Callable[[bool], None] = lambda deaf: None
        """Called when `deaf` has changed."""
        self._deaf = False
        self.reconnects = 0
        """How often the connection to a broker was lost."""
        self.received = 0
        """Messages that a broker brought."""
        self.oversized = 0
        """Messages of a broker that were dropped, as they were longer than `publish_most_bytes`."""
        self.on_bus_lag: Callable[[float], None] = lambda seconds: None
        """Called with the seconds that a message took to the bus and back, once a second while there are topics."""

    @property
    def deaf(self) -> bool:
        """Whether the bus is away, so that this worker should not get new clients."""
        return self._deaf

    @deaf.setter
    def deaf(self, deaf: bool) -> None:
        if deaf != self._deaf:
            self._deaf = deaf
            self.on_deaf(deaf)

    @property
    def topic_count(self) -> int:
        """How many topics have subscribers, or had some a second ago."""
        return len(self._entries)

    @property
    def subscription_count(self) -> int:
        """How many subscriptions there are."""
        return sum(len(entry.subscribers) for entry in self._entries.values())

    def use_bus(self, bus: Bus | None) -> None:
        """Send all that is published from now on through `bus`; None for no bus."""
        self._bus = bus

    # ---- subscriptions

    async def subscribe(self, name: str, subscriber: Subscriber, *, skip_when_slow: bool = False) -> bool:
        """Return once `subscriber` gets all that is published from now on, with whether it did not before.

        Raises TopicsUnavailable, with nothing changed.
        """
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = entry = _Entry()
        new = subscriber not in entry.subscribers
        if new:
            entry.subscribers[subscriber] = skip_when_slow
            self._unused.discard(name)
        if self._bus is not None:
            try:
                await self._confirm(self._bus, name, entry)
            except BaseException:
                if new:
                    self.unsubscribe(name, subscriber)
                raise
        return new

    async def _confirm(self, bus: Bus, name: str, entry: _Entry) -> None:
        """Subscribe at the bus, once for all that ask at the same time."""
        confirmed = entry.confirmed
        if confirmed is None or (confirmed.done() and confirmed.exception() is not None):
            entry.confirmed = confirmed = bus.subscribe(name)
        if not confirmed.done():
            try:
                async with asyncio.timeout(_CONFIRM_MOST_S):
                    await asyncio.shield(confirmed)  # which comes all the same for those who ask later
            except TimeoutError:
                raise TopicsUnavailable(
                    f"the bus did not confirm a subscription within {_CONFIRM_MOST_S:g} s"
                ) from None

    def unsubscribe(self, name: str, subscriber: Subscriber) -> bool:
        """Deliver no more to a subscriber; return whether it had subscribed."""
        entry = self._entries.get(name)
        if entry is None or entry.subscribers.pop(subscriber, None) is None:
            return False
        if not entry.subscribers:
            if self._bus is None:
                del self._entries[name]
            else:
                self._unused.add(name)
        return True

    def forget_confirmations(self) -> None:
        """Ask the bus again for each further subscriber: it is away."""
        for entry in self._entries.values():
            if entry.confirmed is not None and entry.confirmed.done():
                entry.confirmed = None

    def has(self, name: str, subscriber: Subscriber) -> bool:
        """Return whether a subscriber gets a topic."""
        entry = self._entries.get(name)
        return entry is not None and subscriber in entry.subscribers

    def second_passed(self) -> None:
        """Tell the bus which topics have no subscriber any more, and measure its lag while it is used."""
        if self._bus is not None and self._entries:
            self._bus.probe()
        for name in self._unused:
            confirmed = self._entries[name].confirmed
            if confirmed is None or confirmed.done():  # else it would be confirmed after the end
                if self._bus is not None:
                    self._bus.unsubscribe(name)
                del self._entries[name]
        self._unused.intersection_update(self._entries)

    # ---- publishing

    async def publish(self, message: Message) -> None:
        """Return once the bus has taken the message, or it is on its way. Raises TopicsUnavailable."""
        if self._bus is not None:
            await self._bus.publish(message)
        else:
            while self.is_full and self._delivering is not None:
                await asyncio.shield(self._delivering)
            self.deliver((message,))
        self.published += 1
        if self.published % _PUBLISH_TURN_COUNT == 0:
            await asyncio.sleep(0)

    # ---- delivery

    def deliver(self, messages: Iterable[Message]) -> None:
        """Deliver messages that came together, in order, behind those that still wait."""
        for message in messages:
            if message.topic in self._entries:
                self._queue.append(message)
                self.waiting_size += len(message.data)
        if self._queue and self._delivering is None and self._take_turn():
            self._delivering = self.loop.create_task(self._deliver_rest())

    @property
    def is_full(self) -> bool:
        """Whether more waits for delivery than should."""
        return self.waiting_size > _WAITING_MOST

    async def _deliver_rest(self) -> None:
        try:
            more = True
            while more:
                await asyncio.sleep(0)
                if not self._queue[0].ready:
                    await self._encode_large(self._queue[0])
                more = self._take_turn()
        finally:  # also when a program cancels all tasks of its loop
            self._delivering = None
            if self._bus is not None:
                self._bus.on_drained()

    async def _encode_large(self, message: Message) -> None:
        """Compress what would hold the loop for long in another thread, once for each shared encoder."""
        entry = self._entries.get(message.topic)
        encoders = {subscriber.encoder for subscriber in (entry.subscribers if entry is not None else ())}
        for encoder in encoders:
            if encoder is not None and encoder.shared and encoder.compresses:
                try:
                    frame = await self.loop.run_in_executor(None, encoder.encode_alone, message.data)
                except Exception:  # such as a thread that cannot be started
                    _LOG.exception("a message of a topic could not be compressed in another thread")
                    continue
                encoder.remember(message.data, frame)
                message.frames[encoder] = frame
                self.encoded += 1
        message.ready = True

    def _take_turn(self) -> bool:
        """Deliver up to a turn's worth; return whether more is left."""
        left, queue, hold = _TURN_COUNT, self._queue, len(self._queue) > 1 or bool(self._rest)
        held: dict[Subscriber, None] = {}
        while queue and left > 0:
            message = queue[0]
            if not message.ready:
                break
            entry = self._entries.get(message.topic)
            subscribers = {} if entry is None else entry.subscribers
            rest = self._rest or list(subscribers)[::-1]
            part, self._rest = rest[-left:], rest[:-left]
            left -= len(part)
            exclude, before, delivered = message.exclude, len(message.frames), 0
            for subscriber in reversed(part):
                skip = subscribers.get(subscriber)
                if skip is None or subscriber is exclude:
                    continue
                try:
                    if subscriber.deliver(message, skip, hold):
                        delivered += 1
                        if hold:
                            held[subscriber] = None
                    elif skip:
                        self.skipped += 1
                except Exception:  # a fault of ours in one connection; the others get the message
                    self._end_faulty(subscriber, message.topic)
            self.delivered += delivered
            self.encoded += len(message.frames) - before
            if not self._rest:
                queue.popleft()
                self.waiting_size -= len(message.data)
        for subscriber in held:
            try:
                subscriber.flush()
            except Exception:
                self._end_faulty(subscriber, "")
        return bool(queue)

    def _end_faulty(self, subscriber: Subscriber, topic: str) -> None:
        """End a subscriber, when the loop turns, that raised an exception instead of taking a message."""
        _LOG.exception("a message of a topic could not be delivered, its connection is ended")
        self.loop.call_soon(subscriber.on_gap, topic)

    # ---- gaps

    def on_gap(self, *topics: str) -> None:
        """End all subscribers of topics of which this worker missed something, spread over some seconds."""
        self.gaps += len(topics)
        entries = [(topic, self._entries[topic]) for topic in topics if topic in self._entries]
        subscribers = {subscriber: topic for topic, entry in entries for subscriber in entry.subscribers}
        if self.ends_at_gap:
            spread(self.loop, list(subscribers.items()), _GAP_SPREAD_S, lambda item: item[0].on_gap(item[1]))


# Of a loop and not of a server, because `Topic.publish` is called where no server is at hand.
_HUBS: Final[dict[asyncio.AbstractEventLoop, Hub]] = {}


def join_hub(loop: asyncio.AbstractEventLoop) -> Hub:
    """Return the hub that all servers of a loop share, and count one server more."""
    hub = _HUBS.get(loop)
    if hub is None:
        _HUBS[loop] = hub = Hub(loop)
    hub.server_count += 1
    return hub


def leave_hub(hub: Hub) -> None:
    """Count one server less; with the last one, the hub is gone."""
    hub.server_count -= 1
    if not hub.server_count:
        del _HUBS[hub.loop]


def find_hub() -> Hub | None:
    """Return the hub of the running loop; None where no server of ours runs on it, or no loop is running."""
    try:
        return _HUBS.get(asyncio.get_running_loop())
    except RuntimeError:
        return None
