"""How many sockets subscribe to a topic, over all workers that share a Redis."""

from __future__ import annotations

import asyncio

import pytest

from asgiws.topics.brokers.redis.broker import RedisBroker
from asgiws.topics.message import TopicsUnavailable
from tests.redis_server import RedisServer
from tests.topics.brokers.machines import Workers, listen, read, run, workers_of
from tests.topics.test_relay import Clock


def brokers_of(workers: Workers) -> list[RedisBroker]:
    return [broker for broker in workers.brokers if isinstance(broker, RedisBroker)]


def test_sockets_of_all_other_workers_are_counted(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 3, topic_prefix="p-") as workers:
            clock = Clock()
            first, second, third = brokers_of(workers)
            listeners = [await listen(hub, "p-a") for hub in workers.hubs[:2]]
            first.report({"p-a": 2, "p-b": 1})
            second.report({"p-a": 3})
            assert await third.count("p-a") == 5
            assert await first.count("p-a") == 3
            assert await asyncio.gather(*(second.count("p-a") for _ in range(10))) == [2] * 10
            assert await third.count("p-nobody") == 0
            first.report({"p-a": 0})
            clock.pass_by(11)
            assert await third.count("p-a") == 3
            await second.close()
            clock.pass_by(11)
            assert await third.count("p-a") == 0
            redis.client().publish("asgiws:p-a", "subscribers see no question")
            assert await read(listeners[0], 1) == ["subscribers see no question"]

    run(test)


@pytest.mark.slow
def test_who_does_not_answer_counts_as_nobody(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            stranger = redis.client().pubsub()  # type: ignore[no-untyped-call]
            stranger.subscribe("asgiws:a")
            assert stranger.get_message(timeout=5)
            await listen(workers.hubs[0], "a")
            first, second = brokers_of(workers)
            first.report({"a": 4})
            assert await second.count("a") == 4
            stranger.close()
            redis.kill()
            await workers.lost()
            with pytest.raises(TopicsUnavailable):
                await second.count("b")

    run(test)
