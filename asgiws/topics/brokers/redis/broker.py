"""The bus over Redis or Valkey, with publish and subscribe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from asgiws.topics.brokers.broker import Broker
from asgiws.topics.brokers.redis.connection import parse_url
from asgiws.topics.brokers.redis.node import Node, Verbs
from asgiws.topics.brokers.session import BrokerError
from asgiws.topics.hub import Hub

__all__ = ["CHANNEL", "RedisBroker", "RedisSession"]

CHANNEL: Final = b"asgiws:"
"""What precedes a topic's name, with its prefix, in the name of its channel."""


class RedisSession:
    """The two connections to one Redis server; see `asgiws.topics.brokers.session`."""

    def __init__(
        self, known: Mapping[str, Any], take: Callable[[str, bytes], None], probe_topics: Sequence[str]
    ) -> None:
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.probe_topics = probe_topics
        self._take = take
        self._verbs = Verbs(sharded=False)
        self._node = Node(known, self._verbs, self._on_message, self._on_lost)

    async def open(self) -> None:
        """Connect and subscribe to the topics of probes."""
        await self._node.open()
        await self.subscribe(self.probe_topics)

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Return once Redis has confirmed the topics."""
        await self._node.subscribe([CHANNEL + topic.encode() for topic in topics])

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Get the topics no more."""
        self._node.unsubscribe([CHANNEL + topic.encode() for topic in topics])

    async def publish(self, topic: str, payload: bytes) -> None:
        """Return once Redis has published a message."""
        await self._node.command(self._verbs.publish, CHANNEL + topic.encode(), payload)

    async def close(self) -> None:
        """End."""
        await self._node.close()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        self._take(channel[len(CHANNEL) :].decode(), payload)

    def _on_lost(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)


class RedisBroker(Broker):
    """The bus of a hub over Redis. `read_password` is called before each connection; it returns "" for that of the URL.

    Raises ValueError or TypeError for a URL that redis-py does not take.
    """

    def __init__(self, hub: Hub, name: str, queue_most_bytes: int, url: str, read_password: Callable[[], str]) -> None:
        super().__init__(hub, name, queue_most_bytes)
        self._url = url
        self._read_password = read_password

    def make_session(self) -> RedisSession:
        """Return a session. Raises BrokerError when the password cannot be read."""
        try:
            known = parse_url(self._url, self._read_password())
        except OSError as error:
            raise BrokerError(f"cannot read the password: {error.strerror}") from None
        return RedisSession(known, self.take, [self.probe_topic])
