"""A session with one Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from asgiws.topics.brokers.payload import MARK
from asgiws.topics.brokers.redis.counting import Counting
from asgiws.topics.brokers.redis.node import Node, Verbs

__all__ = ["CHANNEL", "RedisSession"]

CHANNEL: Final = b"asgiws:"
"""What precedes a topic's name, with its prefix, in the name of its channel."""


class RedisSession:
    """The connections to one server; see `asgiws.topics.brokers.session`."""

    def __init__(
        self, known: Mapping[str, Any], take: Callable[[str, bytes], None], probe_topic: str, counting: Counting
    ) -> None:
        """`known` is what `connection.parse_url` returns."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.probe_topics: Sequence[str] = (probe_topic,)
        self.asker = probe_topic
        self._known = known
        self._take = take
        self._counting = counting
        self._verbs = Verbs(sharded=False)
        self._nodes: list[Node] = []

    async def open(self) -> None:
        """Connect and subscribe to the topics of probes."""
        await self._add_node(self._known)
        await self.subscribe(self.probe_topics)

    async def _add_node(self, known: Mapping[str, Any]) -> Node:
        node = Node(known, self._verbs, self._on_message, self._on_lost)
        self._nodes.append(node)
        await node.open()
        return node

    def _node_of(self, channel: bytes) -> Node:
        """Return the server that is responsible for a channel. Raises BrokerError."""
        return self._nodes[0]

    def _by_node(self, topics: Sequence[str]) -> dict[Node, list[bytes]]:
        found: dict[Node, list[bytes]] = {}
        for topic in topics:
            channel = CHANNEL + topic.encode()
            found.setdefault(self._node_of(channel), []).append(channel)
        return found

    async def subscribe(self, topics: Sequence[str]) -> None:
        """Return once Redis has confirmed the topics."""
        for result in await asyncio.gather(
            *(node.subscribe(channels) for node, channels in self._by_node(topics).items()), return_exceptions=True
        ):
            if isinstance(result, BaseException):
                raise result

    async def unsubscribe(self, topics: Sequence[str]) -> None:
        """Get the topics no more."""
        for node, channels in self._by_node(topics).items():
            node.unsubscribe(channels)

    async def publish(self, topic: str, payload: bytes) -> None:
        """Return once Redis has published a message."""
        await self.send(topic, payload)

    async def send(self, topic: str, payload: bytes) -> int:
        """Publish a message; return how many subscribers it reached. Raises BrokerError."""
        channel = CHANNEL + topic.encode()
        reached: int = await self._node_of(channel).command(self._verbs.publish, channel, payload)
        return reached

    async def close(self) -> None:
        """End."""
        for node in self._nodes:
            await node.close()

    def _on_message(self, channel: bytes, payload: bytes) -> None:
        topic = channel[len(CHANNEL) :].decode()
        if not (payload.startswith(MARK) and self._counting.take(self, topic, payload)):
            self._take(topic, payload)

    def _on_lost(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)
