"""A subscriber in this process: what `Topic.messages` waits on."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from asgiws.topics.message import Message, TopicsUnavailable

__all__ = ["Listener"]


class Listener:
    """A bounded queue of messages. One that falls behind learns of it, and gets nothing more."""

    encoder = None

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"limit={limit}, allowed: at least 1 message")
        self._limit = limit
        self._queue: deque[Message] = deque()
        self._past_count = 0
        """How many of these were kept before the subscription: they come first, and the limit is not for them."""
        self._missed = ""
        self._changed = asyncio.Event()

    def deliver(self, message: Message, skip_when_slow: bool, hold: bool) -> bool:
        """Queue a message."""
        if self._missed:
            return False
        if len(self._queue) - self._past_count >= self._limit:
            if not skip_when_slow:
                self._missed = f"listener of {message.topic} fell {self._limit} messages behind"
            return False
        self._queue.append(message)
        self._changed.set()
        return True

    def flush(self) -> None:
        """Do nothing: a queue holds messages in any case."""

    async def deliver_past(self, messages: Iterable[Message]) -> None:
        """Queue what was published before."""
        self.queue_past(messages)

    def queue_past(self, messages: Iterable[Message]) -> None:
        """Queue what was published before, as much as is kept."""
        before = len(self._queue)
        self._queue.extend(messages)
        self._past_count += len(self._queue) - before
        self._changed.set()

    def on_gap(self, topic: str) -> None:
        """Let the reader know, once it has read what came before."""
        self._missed = f"messages of {topic} were lost on their way to this worker"
        self._changed.set()

    @property
    def waiting_count(self) -> int:
        """How many messages wait for the reader."""
        return len(self._queue)

    async def next(self) -> str | bytes:
        """Return the next message. Raises TopicsUnavailable when one was missed."""
        while not self._queue:
            if self._missed:
                raise TopicsUnavailable(self._missed)
            self._changed.clear()
            await self._changed.wait()
        self._past_count = max(0, self._past_count - 1)
        return self._queue.popleft().data
