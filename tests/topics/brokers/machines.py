"""Workers of several machines, each a hub with a broker as its bus, in one process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from asgiws.config.options import Config
from asgiws.topics.brokers.broker import Broker
from asgiws.topics.brokers.factory import check_broker, make_broker
from asgiws.topics.hub import Hub
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message
from tests import PATIENCE_S

__all__ = ["Workers", "assert_whole", "listen", "read", "run", "until", "workers_of"]


class Workers:
    """Workers that share a broker."""

    def __init__(self, url: str, **options: Any) -> None:
        self.config = Config(broker=url, **options)
        check_broker(self.config)
        self.hubs: list[Hub] = []
        self.brokers: list[Broker] = []

    async def add(self) -> Hub:
        """Start a worker; return its hub."""
        hub = Hub(asyncio.get_running_loop())
        hub.prefix, hub.publish_most_bytes = self.config.topic_prefix, self.config.max_publish_size
        broker = make_broker(self.config, hub)
        self.hubs.append(hub)
        self.brokers.append(broker)
        await broker.start(required=self.config.broker_required)
        return hub

    async def connected(self) -> None:
        """Wait until all are connected, and have noticed that they were not."""
        await until(lambda: not any(hub.deaf for hub in self.hubs))

    async def lost(self, times: int = 1) -> None:
        """Wait until each has lost its broker so many times since it began."""
        await until(lambda: all(hub.reconnects >= times for hub in self.hubs))

    async def close(self) -> None:
        for broker in self.brokers:
            await broker.close()


@contextlib.asynccontextmanager
async def workers_of(url: str, count: int = 0, **options: Any) -> AsyncIterator[Workers]:
    """Start workers, and end them with the context."""
    made = Workers(url, **options)
    try:
        for _ in range(count):
            await made.add()
        yield made
    finally:
        await made.close()


def run(test: Callable[[], Coroutine[Any, Any, None]], patience_s: float = 3 * PATIENCE_S) -> None:
    """Run a test on a loop; a broker that does not come back ends it."""

    async def bounded() -> None:
        async with asyncio.timeout(patience_s):
            await test()

    asyncio.run(bounded())


async def listen(hub: Hub, topic: str, limit: int = 100_000) -> Listener:
    listener = Listener(limit)
    assert await hub.subscribe(topic, listener)
    return listener


async def read(listener: Listener, count: int) -> list[str | bytes]:
    return [await listener.next() for _ in range(count)]


async def assert_whole(workers: Workers, topic: str) -> None:
    """Check that everything works for a topic on which nobody listens yet."""
    listeners = [await listen(hub, topic) for hub in workers.hubs]
    await workers.hubs[0].publish(Message(topic, "hello"))
    for listener in listeners:
        assert await read(listener, 1) == ["hello"]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something has happened that has no event."""
    while not condition():  # noqa: ASYNC110 - it happens in another process
        await asyncio.sleep(0.001)
