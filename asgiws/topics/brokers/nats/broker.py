"""The bus over NATS; see `asgiws.topics.brokers.nats.session`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from asgiws.topics.brokers.broker import Broker
from asgiws.topics.brokers.nats.session import NatsSession
from asgiws.topics.brokers.nats.url import parse_url
from asgiws.topics.brokers.session import BrokerError
from asgiws.topics.hub import Hub
from asgiws.topics.message import TopicsUnavailable

__all__ = ["NatsBroker"]

_COUNT_LASTS_S: Final = 10.0


class NatsBroker(Broker):
    """The bus of a hub over NATS. `read_password` is called before each connection; it returns "" for that of the URL.

    Raises ValueError for a URL that is not one of `asgiws.topics.brokers.nats.url`.
    """

    def __init__(self, hub: Hub, name: str, queue_most_bytes: int, url: str, read_password: Callable[[], str]) -> None:
        super().__init__(hub, name, queue_most_bytes)
        parse_url(url)
        self._url = url
        self._read_password = read_password
        self._counts: dict[str, int] = {}
        """How many sockets of this worker subscribe to topics."""
        self._counted: dict[str, tuple[float, asyncio.Task[int]]] = {}
        """By topic, when it was asked how many others subscribe, and the answer."""

    def make_session(self) -> NatsSession:
        """Return a session. Raises BrokerError when the password cannot be read."""
        try:
            url = parse_url(self._url, self._read_password())
        except OSError as error:
            raise BrokerError(f"cannot read the password: {error.strerror}") from None
        return NatsSession(url, self.take, [self.probe_topic], lambda topic: self._counts.get(topic, 0))

    def report(self, counts: Mapping[str, int]) -> None:
        """Know how many sockets of this worker subscribe to topics whose number has changed."""
        self._counts.update(counts)
        for topic in [topic for topic, count in counts.items() if not count]:
            del self._counts[topic]

    async def count(self, topic: str) -> int:
        """Return how many sockets of all others subscribe, at most ten seconds ago. Raises TopicsUnavailable."""
        now_s = asyncio.get_running_loop().time()
        self._counted = {name: known for name, known in self._counted.items() if known[0] > now_s - _COUNT_LASTS_S}
        if topic not in self._counted:
            asking = asyncio.get_running_loop().create_task(self._ask(topic))
            asking.add_done_callback(lambda done: self._on_counted(topic, done))
            self._counted[topic] = now_s, asking
        return await asyncio.shield(self._counted[topic][1])

    async def _ask(self, topic: str) -> int:
        session = await self._connected_session()
        assert isinstance(session, NatsSession)
        try:
            return await session.count(topic)
        except BrokerError as error:
            raise TopicsUnavailable(f"broker {self.name}: {error}") from None

    def _on_counted(self, topic: str, done: asyncio.Task[int]) -> None:
        if done.cancelled() or done.exception() is not None:
            self._counted.pop(topic, None)

    async def close(self) -> None:
        """End the connection."""
        for _, asking in self._counted.values():
            asking.cancel()
        await super().close()
