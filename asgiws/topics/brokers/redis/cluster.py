"""A session with a Redis Cluster, with sharded publish and subscribe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from asgiws.topics.brokers.counting import Counting
from asgiws.topics.brokers.redis.connection import ask
from asgiws.topics.brokers.redis.node import Node, Verbs
from asgiws.topics.brokers.redis.session import CHANNEL, RedisSession
from asgiws.topics.brokers.session import BrokerError

__all__ = ["ClusterSession"]

_Address = tuple[str, int]


class ClusterSession(RedisSession):
    """The connections to all servers of a cluster that have slots.

    One that is lost ends the session, and so does a slot that moves: the next session learns who has which slot.
    """

    def __init__(
        self,
        known: Mapping[str, Any],
        take: Callable[[str, bytes], None],
        probe_topic: str,
        counting: Counting,
        seeds: list[_Address],
    ) -> None:
        """`seeds` are servers of earlier sessions, for when that of the URL is gone; kept up to date."""
        super().__init__(known, take, probe_topic, counting)
        self._verbs = Verbs(sharded=True)
        self._seeds = seeds
        self._slots: dict[int, Node] = {}

    async def open(self) -> None:
        """Learn who has which slot, connect to all, and subscribe to a topic of probes at each."""
        nodes: dict[_Address, Node] = {}
        for first, last, address in await self._learn_slots():
            if address not in nodes:
                nodes[address] = await self._add_node({**self._known, "host": address[0], "port": address[1]})
            self._slots |= dict.fromkeys(range(first, last + 1), nodes[address])
        if not nodes:
            raise BrokerError("no server of the cluster has slots")
        self._seeds[:] = nodes
        if self.probe_topics:
            self.probe_topics = [self._probe_topic_at(node) for node in self._nodes]
            self.asker = self.probe_topics[0]
            await self.subscribe(self.probe_topics)

    async def _learn_slots(self) -> list[tuple[int, int, _Address]]:
        """Return ranges of slots with their servers, as the first server that answers has them."""
        asked = [(self._known.get("host", "localhost"), self._known.get("port", 6379)), *self._seeds]
        for place, (host, port) in enumerate(asked):
            try:
                ranges = await ask({**self._known, "host": host, "port": port}, b"CLUSTER", b"SLOTS")
            except BrokerError:
                if place == len(asked) - 1:
                    raise
            else:
                return [
                    (first, last, (server[0].decode() if server[0] else host, server[1]))
                    for first, last, server, *_ in ranges
                ]
        raise AssertionError

    def _probe_topic_at(self, node: Node) -> str:
        names = (f"{self.asker}:{number}" for number in count())
        return next(name for name in names if self._slots.get(_slot_of(CHANNEL + name.encode())) is node)

    def _node_of(self, channel: bytes) -> Node:
        """Return the server that has the channel's slot. Raises BrokerError."""
        node = self._slots.get(_slot_of(channel))
        if node is None:
            raise BrokerError("no server of the cluster has the slot")
        return node


def _slot_of(channel: bytes) -> int:
    from redis.crc import key_slot  # optional: the extra redis

    return int(key_slot(channel))
