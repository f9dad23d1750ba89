"""Which topics a worker wants from a broker, which of them the broker has confirmed, and which it missed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import Final

from asgiws.topics.brokers.session import BrokerError, Session
from asgiws.topics.history import START, Position
from asgiws.topics.message import TopicsUnavailable

__all__ = ["Interest"]

_BATCH_COUNT: Final = 500


class Interest:
    """The topics of one worker, over all sessions."""

    def __init__(self) -> None:
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        self._changed: dict[str, None] = {}
        """Topics that the broker has to learn of, in the order in which they changed."""
        self._waiting: dict[str, asyncio.Future[Position]] = {}
        """Subscriptions that were not confirmed yet."""
        self._missed: set[str] = set()
        """Topics that were confirmed when a session was lost, until they were taken."""

    def want(self, topic: str) -> asyncio.Future[Position]:
        """Return what is done once the broker has confirmed a topic; fails with TopicsUnavailable."""
        waiting = self._waiting.get(topic)
        if waiting is None:
            waiting = asyncio.get_running_loop().create_future()
            if topic in self._confirmed:
                waiting.set_result(START)
                return waiting
            self._waiting[topic] = waiting
            self._wanted.add(topic)
            self._changed[topic] = None
        return waiting

    def drop(self, topic: str) -> None:
        """Want a topic no more."""
        self._wanted.discard(topic)
        self._confirmed.discard(topic)
        self._missed.discard(topic)
        self._changed[topic] = None

    @property
    def has_changed(self) -> bool:
        """Whether the broker has to learn of something."""
        return bool(self._changed)

    async def change_some(self, session: Session) -> None:
        """Let the broker learn of a batch of changes. Raises BrokerError."""
        batch = list(islice(self._changed, _BATCH_COUNT))
        for topic in batch:
            del self._changed[topic]
        wanted = [topic for topic in batch if topic in self._wanted]
        positions: Mapping[str, Position] = {}
        try:
            if len(wanted) < len(batch):
                await session.unsubscribe([topic for topic in batch if topic not in self._wanted])
            if wanted:
                positions = await session.subscribe(wanted) or {}
        except BrokerError as error:
            if not session.lost.done():  # else the next session subscribes
                for topic in wanted:
                    self._reject(topic, str(error))
            raise
        for topic in wanted:
            if topic in self._wanted:
                self._confirmed.add(topic)
                if (waiting := self._waiting.pop(topic, None)) is not None and not waiting.done():
                    waiting.set_result(positions.get(topic, START))

    def begin_session(self) -> None:
        """Let a new session learn of everything."""
        self._changed = dict.fromkeys(self._wanted)

    def lose_session(self) -> int:
        """Note that everything may be missed from now on; return how many topics."""
        self._missed |= self._confirmed
        self._confirmed.clear()
        return len(self._missed)

    def take_missed(self) -> set[str]:
        """Return the topics of which messages may have been missed, once."""
        missed, self._missed = self._missed, set()
        return missed

    def reject_all(self, reason: str) -> None:
        """Let everybody who waits fail."""
        for topic in list(self._waiting):
            self._reject(topic, reason)

    def _reject(self, topic: str, reason: str) -> None:
        waiting = self._waiting.pop(topic, None)
        if waiting is not None and not waiting.done():
            waiting.set_exception(TopicsUnavailable(reason))
            waiting.exception()  # so that nobody has to ask for it
