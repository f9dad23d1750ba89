"""Delivery: the messages that wait in one event loop, and their way to each subscriber of their topic.

Delivery takes turns: after so many deliveries the loop serves others first. Messages that came together leave a socket
in one write. A message is encoded once for each encoder that connections share.

A subscriber that asks for what it missed is sent that first, then what was published meanwhile, then what is published
from then on (`asgiws.topics.recovery`). Until then it is `Joining`: it holds messages while everything before them is
sent, and then takes what follows the last of these. As each kept message has a position, none is left out in between
and none comes twice.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from asgiws.protocol.limits import MIB
from asgiws.topics.history import START, Position
from asgiws.topics.message import Message, Subscriber

__all__ = ["Delivery", "Entry", "Held", "Joining"]

_LOG: Final = logging.getLogger("asgiws")
# Deliveries after which the loop turns: about two milliseconds of writing to sockets.
_TURN_COUNT: Final = 1000
# What may wait for delivery before publishers wait, and the bus is not read.
_WAITING_MOST: Final = 4 * MIB
# What one subscriber, or a topic that fills a gap, may hold. What is more is read from the history again.
_HELD_MOST_COUNT: Final = 1000
_HELD_MOST_SIZE: Final = MIB


class Held:
    """Messages that wait until what was published before them is there."""

    __slots__ = ("_size", "lost", "messages", "overflowed")

    def __init__(self) -> None:
        self.clear()
        self.lost = False
        """Whether a message is gone that no history has."""

    def clear(self) -> None:
        """Hold nothing: all of it is read again."""
        self.messages: list[Message] = []
        self._size = 0
        self.overflowed = False
        """Whether something has to be read again."""

    def hold(self, message: Message) -> None:
        """Hold a message, while there is room."""
        self._size += len(message.data)
        if self.overflowed or len(self.messages) >= _HELD_MOST_COUNT or self._size > _HELD_MOST_SIZE:
            self.overflowed = True
            self.lost = self.lost or message.at is None
        else:
            self.messages.append(message)


class Joining(Held):
    """A subscriber that catches up."""

    __slots__ = ("after", "gone", "holding", "skip_when_slow")

    def __init__(self, skip_when_slow: bool) -> None:
        super().__init__()
        self.skip_when_slow = skip_when_slow
        self.holding = True
        """False once it has all up to `after`, and is sent what follows."""
        self.gone = False
        """Whether it has unsubscribed."""
        self.after = START
        """The position of the last message that it was sent."""

    def take_held(self) -> list[Message]:
        """Return what was held and not sent before, and hold it no more."""
        held, after = self.messages, self.after
        self.clear()
        return [message for message in held if message.at is None or message.at.is_after(after)]


class Entry:
    """One topic with its subscribers."""

    __slots__ = ("at", "confirmed", "filling", "joining", "listener_count", "passed", "subscribers")

    def __init__(self) -> None:
        self.subscribers: dict[Subscriber, bool] = {}
        """Each with whether it misses messages while it is slow, instead of being closed."""
        self.joining: dict[Subscriber, Joining] = {}
        """Those that catch up."""
        self.listener_count = 0
        """How many of both are no sockets."""
        self.confirmed: asyncio.Future[Position] | None = None
        """Done once the bus has confirmed the subscription; None while it was not asked."""
        self.at = START
        """The position of the last message that came; START where it is not known, or none has one."""
        self.passed = START
        """The position of the last message that has left the queue."""
        self.filling: Held | None = None
        """What came while a gap is filled; None while there is none."""

    def __contains__(self, subscriber: Subscriber) -> bool:
        return subscriber in self.subscribers or subscriber in self.joining

    @property
    def is_used(self) -> bool:
        """Whether anybody subscribes."""
        return bool(self.subscribers or self.joining)

    @property
    def socket_count(self) -> int:
        """How many WebSockets subscribe."""
        return len(self.subscribers) + len(self.joining) - self.listener_count

    def begin_at(self, position: Position) -> None:
        """Note what was published before the subscription, unless something has come since."""
        if self.at == START:
            self.at = self.passed = position

    def on_confirmed(self, confirmed: asyncio.Future[Position]) -> None:
        """Note what was published before the bus confirmed the subscription."""
        if not confirmed.cancelled() and confirmed.exception() is None:
            self.begin_at(confirmed.result())

    def follows(self, message: Message) -> bool:
        """Return whether a kept message is the next one, and count it then. What was there before is not."""
        at, last = message.at, self.at
        assert at is not None
        if at.epoch == last.epoch:
            new = at.offset == last.offset + 1
        else:
            new = last == START or at.offset == 1
        if new:
            self.at = at
        return new

    def remove(self, subscriber: Subscriber) -> bool:
        """Remove a subscriber; return whether it was one."""
        joining = self.joining.pop(subscriber, None)
        if joining is not None:
            joining.gone = True
        elif self.subscribers.pop(subscriber, None) is None:
            return False
        self.listener_count -= subscriber.encoder is None
        return True

    def end_joining(self, subscriber: Subscriber) -> None:
        """Deliver to a subscriber as to all others from now on."""
        self.subscribers[subscriber] = self.joining.pop(subscriber).skip_when_slow


class Delivery:
    """The queue of an event loop: what waits for delivery to the subscribers of its topics."""

    def __init__(self, loop: asyncio.AbstractEventLoop, entries: Mapping[str, Entry]) -> None:
        """`entries`: the topics that have subscribers, by name."""
        self._loop = loop
        self._entries = entries
        self._queue: deque[Message] = deque()
        self.waiting_size = 0
        """Characters and bytes of the messages in the queue."""
        self._rest: list[Subscriber] = []
        """The subscribers, in reverse, that the first message of the queue still has to reach."""
        self._delivering: asyncio.Task[None] | None = None
        self.delivered = 0
        self.skipped = 0
        """Deliveries left out because a subscriber was slow."""
        self.encoded = 0
        """Frames that were made of published messages."""
        self.on_gap: Callable[[str], None] = lambda topic: None
        """Called when a kept message comes that is not the next one of its topic."""
        self.on_drained: Callable[[], None] = lambda: None
        """Called when nothing waits any more."""

    def deliver(self, messages: Iterable[Message]) -> None:
        """Deliver messages that came together, in order, behind those that still wait."""
        for message in messages:
            entry = self._entries.get(message.topic)
            if entry is not None and (message.at is None or self._is_next(entry, message)):
                self._queue.append(message)
                self.waiting_size += len(message.data)
        if self._queue and self._delivering is None and self._take_turn():
            self._delivering = self._loop.create_task(self._deliver_rest())

    @property
    def is_full(self) -> bool:
        """Whether more waits for delivery than should."""
        return self.waiting_size > _WAITING_MOST

    async def wait_for_room(self) -> None:
        """Wait while more waits than should."""
        while self.is_full and self._delivering is not None:
            await asyncio.shield(self._delivering)

    async def encode_large(self, message: Message, subscribers: Iterable[Subscriber]) -> None:
        """Compress what would hold the loop for long in another thread, once for each shared encoder."""
        for encoder in {subscriber.encoder for subscriber in subscribers}:
            if encoder is not None and encoder.shared and encoder.compresses:
                try:
                    frame = await self._loop.run_in_executor(None, encoder.encode_alone, message.data)
                except Exception:  # such as a thread that cannot be started
                    _LOG.exception("a message of a topic could not be compressed in another thread")
                    continue
                encoder.remember(message.data, frame)
                message.frames[encoder] = frame
                self.encoded += 1
        message.ready = True

    def end_joining(self, topic: str, subscriber: Subscriber, joining: Joining) -> None:
        """Deliver to a subscriber that was sent all up to `joining.after` what follows.

        As to all others, once the messages in the queue that it was sent have passed.
        """
        joining.holding = False
        entry = self._entries.get(topic)
        if entry is not None and entry.joining.get(subscriber) is joining:
            begun = bool(self._rest) and self._queue[0].topic == topic
            passed, after = entry.passed, joining.after
            if not begun and (after == START or not after.is_after(passed)):
                entry.end_joining(subscriber)

    def _is_next(self, entry: Entry, message: Message) -> bool:
        """Return whether a kept message is the next one of its topic, of which no gap is being filled."""
        if entry.filling is not None:
            entry.filling.hold(message)
            return False
        if entry.follows(message):
            return True
        if message.at is not None and message.at.is_after(entry.at):
            self.on_gap(message.topic)
        return False

    async def _deliver_rest(self) -> None:
        try:
            more = True
            while more:
                await asyncio.sleep(0)
                message = self._queue[0]
                if not message.ready:
                    entry = self._entries.get(message.topic)
                    await self.encode_large(message, [] if entry is None else [*entry.subscribers, *entry.joining])
                more = self._take_turn()
        finally:  # also when a program cancels all tasks of its loop
            self._delivering = None
            self.on_drained()

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
                if entry is not None and (message.at is not None or entry.joining):
                    self._on_passed(entry, message)
        for subscriber in held:
            try:
                subscriber.flush()
            except Exception:
                self._end_faulty(subscriber, "")
        return bool(queue)

    def _on_passed(self, entry: Entry, message: Message) -> None:
        """Hand a message that all others have got to those that catch up."""
        at = message.at
        if at is not None:
            entry.passed = at
        for subscriber, joining in list(entry.joining.items()):
            if joining.holding:
                joining.hold(message)
                continue
            new = at is None or at.is_after(joining.after)
            if new and subscriber is not message.exclude:
                try:
                    self.delivered += subscriber.deliver(message, joining.skip_when_slow, False)
                except Exception:
                    self._end_faulty(subscriber, message.topic)
            if at is not None and (new or at == joining.after):
                entry.end_joining(subscriber)

    def _end_faulty(self, subscriber: Subscriber, topic: str) -> None:
        """End a subscriber, when the loop turns, that raised an exception instead of taking a message."""
        _LOG.exception("a message of a topic could not be delivered, its connection is ended")
        self._loop.call_soon(subscriber.on_gap, topic)
