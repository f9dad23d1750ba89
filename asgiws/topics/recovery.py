"""Recovery: what a subscriber missed that comes back, and what this worker missed, read from what topics keep.

Both read the history page by page from the last position that is known, while what is published meanwhile is held, and
end when the history has no more: what was held and is not in it comes next. What could not be held is read again. A gap
that cannot be filled ends the subscribers of its topic, never silently.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from asgiws.schedule import spread
from asgiws.topics.delivery import Delivery, Entry, Held, Joining
from asgiws.topics.history import START, Past, Position
from asgiws.topics.message import Message, Subscriber, TopicsUnavailable, messages_of

__all__ = ["Recovery"]

# Subscribers that missed something are closed over this time, so that they do not all come back at once.
_GAP_SPREAD_S: Final = 5.0
# Pages of history, of up to 256 KiB and as much for each kind of encoder
_PAGES_MOST: Final = 16


class Recovery:
    """The gaps of one event loop's subscribers."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        delivery: Delivery,
        entries: Mapping[str, Entry],
        read: Callable[[str, Position], Awaitable[Past]],
        unsubscribe: Callable[[str, Subscriber], bool],
    ) -> None:
        """`read` returns what a topic keeps after a position, as `Bus.history`."""
        self._loop = loop
        self._delivery = delivery
        self._entries = entries
        self._read = read
        self._unsubscribe = unsubscribe
        self._tasks: set[asyncio.Task[None]] = set()
        self._pages: dict[tuple[str, Position], tuple[Past, list[Message]]] = {}
        """What was read in this second, by topic and position."""
        self.gaps = 0
        """Topics of which this worker missed messages, each time."""
        self.filled = 0
        """Those of which nothing is missing after all."""
        self.recovered = 0
        """Subscribers that came back and were sent all that they had missed."""
        self.unrecovered = 0
        """Subscribers that came back and had missed something that is not kept any more."""
        self.ends_at_gap = True
        """Whether subscribers that missed something are closed (`--topic-gap`)."""
        delivery.on_gap = self.on_gap

    # ---- a subscriber

    async def catch_up(self, topic: str, subscriber: Subscriber, joining: Joining, since: Position) -> bool:
        """Send a subscriber what is kept after a position, and what came meanwhile; return whether it misses nothing.

        Raises TopicsUnavailable when it would miss a message that nobody keeps.
        """
        complete = read_on = True
        joining.after = since
        while (read_on or joining.messages) and not joining.gone:
            if read_on:
                if joining.overflowed:
                    joining.clear()
                past, messages = await self._read_page(topic, joining.after)
                complete, joining.after = complete and past.complete, past.last
                read_on = joining.after.offset < past.top
            else:
                messages = joining.take_held()
                joining.after = next((message.at for message in reversed(messages) if message.at), joining.after)
            messages = [message for message in messages if message.exclude is not subscriber]
            for message in messages:
                if not message.ready:
                    await self._delivery.encode_large(message, (subscriber,))
            await subscriber.deliver_past(messages)
            self._delivery.delivered += len(messages)
            if joining.lost:
                raise TopicsUnavailable(f"messages of {topic} that are not kept came while others were sent")
            read_on = read_on or joining.overflowed
        self._delivery.end_joining(topic, subscriber, joining)
        if since != START:
            self.recovered += complete
            self.unrecovered += not complete
        return complete

    async def _read_page(self, topic: str, since: Position) -> tuple[Past, list[Message]]:
        """Return what a topic keeps after a position, and its messages.

        Many clients come back at once: who has seen the newest message needs nothing, and those that ask for the same
        share what was read, with its frames, while nothing newer has come to this worker.
        """
        entry = self._entries.get(topic)
        at = START if entry is None else entry.at
        if since == at != START:
            return Past(at.epoch, at.offset, at.offset + 1, [], True), []
        page = self._pages.get((topic, since))
        if page is None or at == START or at.is_after(page[0].last):
            past = await self._read(topic, since)
            page = past, messages_of(topic, past)
            if len(self._pages) >= _PAGES_MOST:
                self._pages.clear()
            self._pages[topic, since] = page
        return page

    def second_passed(self) -> None:
        """Forget what was read."""
        self._pages.clear()

    # ---- this worker

    def on_gap(self, *topics: str, kept: bool = True) -> None:
        """Fill gaps of this worker from what the topics keep, or else end their subscribers.

        `kept`: whether everything that was missed has a position.
        """
        self.gaps += len(topics)
        lost = []
        for topic in topics:
            entry = self._entries.get(topic)
            if entry is None:
                continue
            if not kept or entry.at == START:
                lost.append((topic, entry))
            elif entry.filling is not None:
                entry.filling.overflowed = True  # so that the history is read once more
            else:
                entry.filling = Held()
                task = self._loop.create_task(self._fill(topic, entry, entry.filling, entry.at))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        self._end_subscribers(lost)

    async def _fill(self, topic: str, entry: Entry, held: Held, since: Position) -> None:
        filled = False
        try:
            filled = await self._deliver_missed(topic, entry, held, since)
        except TopicsUnavailable:
            pass
        finally:  # also when a program cancels all tasks of its loop
            if entry.filling is held:
                entry.filling = None
                if filled:
                    self.filled += 1
                    self._delivery.deliver(held.messages)
                else:
                    self._end_subscribers([(topic, entry)])

    async def _deliver_missed(self, topic: str, entry: Entry, held: Held, since: Position) -> bool:
        """Deliver what is kept after a position, until only what is held is missing; return whether it is all."""
        read_on = True
        while read_on:
            held.clear()  # everything until here is in what is read now
            past = await self._read(topic, since)
            if not past.complete:
                return False
            if entry.filling is not held or self._entries.get(topic) is not entry:
                return False  # nobody waits for it any more
            entry.filling = None
            self._delivery.deliver(messages_of(topic, past))
            entry.filling = held
            since = past.last
            read_on = since.offset < past.top or held.overflowed
            await self._delivery.wait_for_room()
        return True

    def _end_subscribers(self, lost: Iterable[tuple[str, Entry]]) -> None:
        """End all subscribers of topics, spread over some seconds. Until then they get nothing more of these.

        So the last position that a client has seen is one before the gap, and when it comes back it learns of it.
        """
        ending: dict[Subscriber, str] = {}
        for topic, entry in lost:
            entry.at, entry.passed, entry.filling = START, START, None
            for subscriber, joining in entry.joining.items():
                if joining.holding:
                    joining.overflowed = True  # it learns from the history whether it misses something
                else:
                    ending[subscriber] = topic
            ending |= dict.fromkeys(entry.subscribers, topic)
            if self.ends_at_gap:
                for subscriber in [one for one in ending if one in entry]:
                    self._unsubscribe(topic, subscriber)
        if ending and self.ends_at_gap:
            spread(self._loop, list(ending.items()), _GAP_SPREAD_S, lambda item: item[0].on_gap(item[1]))
