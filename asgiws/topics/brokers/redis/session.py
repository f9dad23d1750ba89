"""A session with one Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

from asgiws.topics.brokers.counting import Counting
from asgiws.topics.brokers.payload import MARK
from asgiws.topics.brokers.redis.history import (
    POSITIONS,
    PUBLISH,
    READ,
    Script,
    generation_of,
    past_of,
    position_of,
    since_words,
)
from asgiws.topics.brokers.redis.node import Node, Verbs
from asgiws.topics.brokers.session import BrokerError
from asgiws.topics.history import Keep, Past, Position

__all__ = ["CHANNEL", "RedisSession"]

CHANNEL: Final = b"asgiws:"
"""What precedes a topic's name, with its prefix, in the name of its channel."""

_Result = TypeVar("_Result")


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
        self._generations: dict[Node, bytes] = {}
        self._may_keep = True
        """False once the server has refused a script."""

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

    async def subscribe(self, topics: Sequence[str]) -> Mapping[str, Position]:
        """Return once Redis has confirmed the topics, with the positions of those that keep messages."""
        by_node = self._by_node(topics)
        positions = {} if topics is self.probe_topics else await self._find_positions(by_node)
        await _gather(node.subscribe(channels) for node, channels in by_node.items())
        return positions

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

    # ---- history

    async def keep(self, topic: str, keep: Keep, head: bytes, text: bytes) -> None:
        """Publish a text with its position after `head`, and keep it, in one step. Raises BrokerError."""
        words = (self._verbs.publish, b"%d" % keep.limit, b"%d" % keep.ttl_s, head, text)
        channel = CHANNEL + topic.encode()
        node = self._node_of(channel)
        await self._run(PUBLISH, node, [channel], await self._generation_of(node), *words)

    async def read(self, topic: str, since: Position) -> Past:
        """Return a page of what is kept after a position. Raises BrokerError."""
        channel = CHANNEL + topic.encode()
        node = self._node_of(channel)
        found = await self._run(READ, node, [channel], await self._generation_of(node), *since_words(since))
        return past_of(found, since)

    async def _generation_of(self, node: Node) -> bytes:
        """Return the generation of a server; empty where the account may not ask. Raises BrokerError."""
        generation = self._generations.get(node)
        if generation is None:
            try:
                generation = generation_of(await node.command(b"INFO", b"replication"))
            except BrokerError as error:
                if not _is_refused(error):
                    raise
                generation = b""
            self._generations[node] = generation
        return generation

    async def _find_positions(self, by_node: Mapping[Node, Sequence[bytes]]) -> Mapping[str, Position]:
        """Return the positions of topics; none where the account may not keep messages. Raises BrokerError."""
        if not self._may_keep:
            return {}
        most = self._verbs.most_channels
        batches = [
            (node, channels[start : start + most])
            for node, channels in by_node.items()
            for start in range(0, len(channels), most)
        ]
        try:
            found = await _gather(self._find_newest(node, channels) for node, channels in batches)
        except BrokerError as error:
            if not _is_refused(error):
                raise
            self._may_keep = False
            return {}
        return {topic: position for positions in found for topic, position in positions.items()}

    async def _find_newest(self, node: Node, channels: Sequence[bytes]) -> Mapping[str, Position]:
        """Return the positions of topics at one server, without those of another generation. Raises BrokerError."""
        found = await self._run(POSITIONS, node, channels)
        generation = await self._generation_of(node) if found else b""
        return {
            channels[place - 1][len(CHANNEL) :].decode(): position_of(entry)
            for place, entry, its_generation in found
            if its_generation == generation
        }

    async def _run(self, script: Script, node: Node, keys: Sequence[bytes], *words: bytes) -> Any:
        """Run a script by its hash, or by its text where Redis does not know it yet. Raises BrokerError."""
        rest = (b"%d" % len(keys), *keys, *words)
        try:
            return await node.command(b"EVALSHA", script.hash, *rest)
        except BrokerError as error:
            if type(error.__cause__).__name__ != "NoScriptError":
                raise
        return await node.command(b"EVAL", script.text, *rest)

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


def _is_refused(error: BrokerError) -> bool:
    return type(error.__cause__).__name__ == "NoPermissionError"


async def _gather(works: Iterable[Awaitable[_Result]]) -> list[_Result]:
    """Return the results of all, once all have ended. Raises the first error."""
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return cast("list[_Result]", results)
