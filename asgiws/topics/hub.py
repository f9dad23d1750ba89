"""The hub of one event loop: which connections subscribe to which topics, and the delivery of what is published.

    publish -> Bus -> Hub.deliver -> Subscriber.deliver -> the socket

Without a bus, `publish` delivers at once. With one (`asgiws.topics.relay_client`), every message goes through it, also
to the subscribers of this worker: so all subscribers of a topic see one order, the publisher's own socket included.

Delivery is in `delivery.py`; what a subscriber or this worker missed comes from `recovery.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from asgiws.topics.delivery import Delivery, Entry, Joining
from asgiws.topics.history import HISTORY_MOST_BYTES, History, Past, Position
from asgiws.topics.message import AlreadySubscribed, Message, Subscriber, TopicsUnavailable, kept_message
from asgiws.topics.recovery import Recovery

__all__ = ["Bus", "Hub", "find_hub", "join_hub", "leave_hub"]

# Every so many messages that are published without a pause, the loop turns.
_PUBLISH_TURN_COUNT: Final = 128
# For the bus to confirm a subscription
_CONFIRM_MOST_S: Final = 5.0


class Bus(Protocol):
    """What carries messages between the workers, and keeps those that shall be kept."""

    def subscribe(self, topic: str) -> asyncio.Future[Position]:
        """Return what is done once everything that is published from then on will be delivered.

        Its result is the position of the last kept message before; START where there is none, or it is not known. It
        fails, or this raises, with TopicsUnavailable when the bus is away. Otherwise it may take any time.
        """

    def unsubscribe(self, topic: str) -> None:
        """Deliver the topic no more."""

    async def publish(self, message: Message) -> None:
        """Return once the bus has taken the message. Raises TopicsUnavailable when it is full for long, or away.

        A message with `keep` is kept and gets the next position of its topic, in one step. It is delivered to all as
        `kept_message`, the positions of a topic in order and without a hole, or `Hub.on_gap` is called.
        """

    async def history(self, topic: str, since: Position) -> Past:
        """Return what is kept after a position, or a page of it, the oldest first; see `History.read`.

        What is delivered later and not in it was published later. Raises TopicsUnavailable.
        """

    async def count(self, topic: str) -> int:
        """Return how many sockets of all others subscribe, as they reported last. Raises TopicsUnavailable."""

    def report(self, counts: Mapping[str, int]) -> None:
        """Report how many sockets of this worker subscribe to topics whose number has changed; never raises."""

    def on_drained(self) -> None:
        """Read on: what was handed over is delivered."""

    def probe(self) -> None:
        """Measure how long a message takes to the bus and back: `Hub.on_bus_lag` is called with it."""


class Hub:
    """The topics of one event loop. All of it belongs to that loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.history = History(HISTORY_MOST_BYTES)
        """What topics keep where there is no bus."""
        self._entries: dict[str, Entry] = {}
        self._recounted: set[str] = set()
        """Topics of which the bus does not know how many subscribe."""
        self._unused: set[str] = set()
        """Topics whose last subscriber has left; the bus learns of it a second later, as somebody may come back."""
        self._bus: Bus | None = None
        self.delivery = Delivery(loop, self._entries)
        self.deliver = self.delivery.deliver
        """Deliver messages that came together, in order."""
        self.recovery = Recovery(loop, self.delivery, self._entries, self._read, self.unsubscribe)
        self.on_gap = self.recovery.on_gap
        """Fill a gap of this worker, or end those who missed something."""
        self.server_count = 0
        self.prefix = ""
        """Set before the names of all topics (`--topic-prefix`)."""
        self.publish_most_bytes = 0
        """Limit of a payload (`--max-publish-size`)."""
        self.published = 0
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
        return sum(len(entry.subscribers) + len(entry.joining) for entry in self._entries.values())

    def use_bus(self, bus: Bus | None) -> None:
        """Send all that is published from now on through `bus`; None for no bus."""
        self._bus = bus
        self.delivery.on_drained = _do_nothing if bus is None else bus.on_drained

    @property
    def is_full(self) -> bool:
        """Whether more waits for delivery than should, so that the bus must not be read."""
        return self.delivery.is_full

    @property
    def waiting_size(self) -> int:
        """Characters and bytes that wait for delivery."""
        return self.delivery.waiting_size

    @property
    def delivered(self) -> int:
        """Messages that subscribers have taken, each for each of them."""
        return self.delivery.delivered

    @property
    def skipped(self) -> int:
        """Deliveries left out because a subscriber was slow."""
        return self.delivery.skipped

    @property
    def encoded(self) -> int:
        """Frames that were made of published messages."""
        return self.delivery.encoded

    @property
    def gaps(self) -> int:
        """Topics of which this worker missed messages, each time."""
        return self.recovery.gaps

    # ---- subscriptions

    async def subscribe(self, name: str, subscriber: Subscriber, *, skip_when_slow: bool = False) -> bool:
        """Return once `subscriber` gets all that is published from now on, with whether it did not before.

        Raises TopicsUnavailable, with nothing changed.
        """
        entry = self._entry(name)
        new = subscriber not in entry
        if new:
            entry.subscribers[subscriber] = skip_when_slow
            self._on_joined(name, entry, subscriber)
        try:
            await self._confirm(name, entry)
        except BaseException:
            if new:
                self.unsubscribe(name, subscriber)
            raise
        return new

    async def resume(self, name: str, subscriber: Subscriber, since: Position, *, skip_when_slow: bool = False) -> bool:
        """Subscribe, and first send what is kept after a position; return whether nothing is missing.

        Raises RuntimeError when it has subscribed before, and TopicsUnavailable; nothing is changed then.
        """
        entry = self._entry(name)
        if subscriber in entry:
            raise AlreadySubscribed(name)
        joining = entry.joining[subscriber] = Joining(skip_when_slow)
        self._on_joined(name, entry, subscriber)
        try:
            await self._confirm(name, entry)
            return await self.recovery.catch_up(name, subscriber, joining, since)
        except BaseException:
            self.unsubscribe(name, subscriber)
            raise

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            self._entries[name] = entry = Entry()
            if self._bus is None:
                entry.begin_at(self.history.position(name))
        return entry

    def _on_joined(self, name: str, entry: Entry, subscriber: Subscriber) -> None:
        entry.listener_count += subscriber.encoder is None
        self._unused.discard(name)
        self._recounted.add(name)

    async def _confirm(self, name: str, entry: Entry) -> None:
        """Subscribe at the bus, once for all that ask at the same time."""
        if self._bus is None:
            return
        confirmed = entry.confirmed
        if confirmed is None or (confirmed.done() and confirmed.exception() is not None):
            entry.confirmed = confirmed = self._bus.subscribe(name)
            confirmed.add_done_callback(entry.on_confirmed)
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
        if entry is None or not entry.remove(subscriber):
            return False
        self._recounted.add(name)
        if not entry.is_used:
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
        return entry is not None and subscriber in entry

    async def count(self, name: str) -> int:
        """Return how many sockets subscribe, in all workers. Raises TopicsUnavailable."""
        entry = self._entries.get(name)
        elsewhere = await self._bus.count(name) if self._bus is not None else 0
        return elsewhere + (entry.socket_count if entry is not None else 0)

    def second_passed(self) -> None:
        """Report to the bus which topics have how many subscribers or none, and measure its lag while it is used."""
        bus, entries = self._bus, self._entries
        self.recovery.second_passed()
        if bus is None:
            self.history.expire()
        else:
            if entries:
                bus.probe()
            if self._recounted:
                bus.report({name: entries[name].socket_count for name in self._recounted if name in entries})
        self._recounted.clear()
        for name in self._unused:
            confirmed = entries[name].confirmed
            if confirmed is None or confirmed.done():  # else it would be confirmed after the end
                if bus is not None:
                    bus.unsubscribe(name)
                del entries[name]
        self._unused.intersection_update(entries)

    async def _read(self, name: str, since: Position) -> Past:
        if self._bus is not None:
            return await self._bus.history(name, since)
        await asyncio.sleep(0)  # a page takes about as long as a turn
        return self.history.read(name, since)

    # ---- publishing

    async def publish(self, message: Message) -> None:
        """Return once the bus has taken the message, or it is on its way. Raises TopicsUnavailable."""
        if self._bus is not None:
            await self._bus.publish(message)
        else:
            if self.delivery.is_full:
                await self.delivery.wait_for_room()
            if message.keep is not None and isinstance(message.data, str):
                at = self.history.append(message.topic, message.keep, message.data.encode())
                message = kept_message(message.topic, at, message.data, message.exclude)
            self.deliver((message,))
        self.published += 1
        if self.published % _PUBLISH_TURN_COUNT == 0:
            await asyncio.sleep(0)


def _do_nothing() -> None:
    """Be called."""


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
