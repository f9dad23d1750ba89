"""The bus over NATS; see `asgiws.topics.brokers.nats.session`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from asgiws.topics.brokers.broker import Broker
from asgiws.topics.brokers.counting import Counting
from asgiws.topics.brokers.nats.session import NatsSession
from asgiws.topics.brokers.nats.url import parse_url
from asgiws.topics.brokers.session import BrokerError
from asgiws.topics.hub import Hub
from asgiws.topics.message import TopicsUnavailable

__all__ = ["NatsBroker"]

# For answers, of which nobody knows how many will come
_ANSWER_MOST_S: Final = 0.5


class NatsBroker(Broker):
    """The bus of a hub over NATS. `read_password` is called before each connection; it returns "" for that of the URL.

    Raises ValueError for a URL that is not one of `asgiws.topics.brokers.nats.url`.
    """

    def __init__(self, hub: Hub, name: str, queue_most_bytes: int, url: str, read_password: Callable[[], str]) -> None:
        super().__init__(hub, name, queue_most_bytes)
        parse_url(url)
        self._url = url
        self._read_password = read_password
        self._counting = Counting(_ANSWER_MOST_S)

    def make_session(self) -> NatsSession:
        """Return a session. Raises BrokerError when the password cannot be read."""
        try:
            url = parse_url(self._url, self._read_password())
        except OSError as error:
            raise BrokerError(f"cannot read the password: {error.strerror}") from None
        return NatsSession(url, self.take, self.probe_topic, self._counting)

    def report(self, counts: Mapping[str, int]) -> None:
        """Know how many sockets of this worker subscribe to topics whose number has changed."""
        self._counting.report(counts)

    async def count(self, topic: str) -> int:
        """Return how many sockets of other workers subscribe, at most ten seconds ago. Raises TopicsUnavailable."""
        session = await self._connected_session()
        assert isinstance(session, NatsSession)
        try:
            return await self._counting.count(session, topic)
        except BrokerError as error:
            raise TopicsUnavailable(f"broker {self.name}: {error}") from None

    async def close(self) -> None:
        """End the connection."""
        self._counting.close()
        await super().close()
