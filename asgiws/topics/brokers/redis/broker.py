"""The bus over Redis or Valkey, with publish and subscribe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from asgiws.topics.brokers.broker import Broker
from asgiws.topics.brokers.counting import Counting
from asgiws.topics.brokers.redis.cluster import ClusterSession
from asgiws.topics.brokers.redis.connection import parse_url
from asgiws.topics.brokers.redis.session import RedisSession
from asgiws.topics.brokers.session import BrokerError, Session
from asgiws.topics.history import Keep, Past, Position
from asgiws.topics.hub import Hub
from asgiws.topics.message import Message

__all__ = ["RedisBroker"]

# Pages of history that are read at the same time: after a loss, all topics may want theirs.
_READS_MOST: Final = 8


class RedisBroker(Broker):
    """The bus of a hub over Redis. `read_password` is called before each connection; it returns "" for that of the URL.

    Raises ValueError or TypeError for a URL that redis-py does not take.
    """

    def __init__(self, hub: Hub, name: str, queue_most_bytes: int, url: str, read_password: Callable[[], str]) -> None:
        super().__init__(hub, name, queue_most_bytes)
        self._url = url
        self._read_password = read_password
        self._counting = Counting()
        self._seeds: list[tuple[str, int]] = []
        """Servers of the cluster, as the last session has seen it."""
        self._may_read = asyncio.Semaphore(_READS_MOST)

    def make_session(self) -> RedisSession:
        """Return a session. Raises BrokerError when the password cannot be read."""
        try:
            known = parse_url(self._url, self._read_password())
        except OSError as error:
            raise BrokerError(f"cannot read the password: {error.strerror}") from None
        if "+cluster:" in self._url:
            return ClusterSession(known, self.take, self.probe_topic, self._counting, self._seeds)
        return RedisSession(known, self.take, self.probe_topic, self._counting)

    def report(self, counts: Mapping[str, int]) -> None:
        """Know how many sockets of this worker subscribe to topics whose number has changed."""
        self._counting.report(counts)

    async def count(self, topic: str) -> int:
        """Return how many sockets of other workers subscribe, at most ten seconds ago. Raises TopicsUnavailable."""
        return await self.ask(lambda session: self._counting.count(_redis(session), topic))

    async def publish_kept(self, message: Message, keep: Keep) -> None:
        """Publish a message and keep it, in one step. Raises TopicsUnavailable."""
        head, text = self._inbox.encode(message), message.data
        assert isinstance(text, str)
        await self.ask(lambda session: _redis(session).keep(message.topic, keep, head, text.encode()))

    async def history(self, topic: str, since: Position) -> Past:
        """Return a page of what is kept after a position. Raises TopicsUnavailable."""
        async with self._may_read:
            return await self.ask(lambda session: _redis(session).read(topic, since))

    async def close(self) -> None:
        """End the connection."""
        self._counting.close()
        await super().close()


def _redis(session: Session) -> RedisSession:
    assert isinstance(session, RedisSession)
    return session
