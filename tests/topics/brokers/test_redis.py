"""What is Redis' own: one order for all, its limits, and channels."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgiws.topics.message import Message, TopicsUnavailable
from tests.redis_server import RedisServer
from tests.topics.brokers.machines import assert_whole, listen, read, run, until, workers_of

KIB = 1024
MIB = 1024 * KIB


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 3000)), min_size=1, max_size=60))
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_all_subscribers_of_all_topics_see_one_order(redis: RedisServer, published: list[tuple[int, str, int]]) -> None:
    """Whoever publishes, and whatever turns the loop takes: each publisher's own order is kept, too."""

    async def test() -> None:
        async with workers_of(redis.url, 3) as workers:
            hubs = workers.hubs
            listeners = {(place, topic): await listen(hub, topic) for place, hub in enumerate(hubs) for topic in "ab"}

            async def publish(place: int) -> None:
                for number, (by, topic, size) in enumerate(published):
                    if by == place:
                        await hubs[place].publish(Message(topic, f"{place}:{number}:" + "x" * size))

            await asyncio.gather(*(publish(place) for place in range(3)))
            for topic in "ab":
                count = sum(name == topic for _, name, _ in published)
                seen = [await read(listeners[place, topic], count) for place in range(3)]
                assert seen[0] == seen[1] == seen[2]
                keys = [str(text).split(":")[:2] for text in seen[0]]
                for place in range(3):
                    numbers = [int(number) for by, number in keys if int(by) == place]
                    assert numbers == sorted(numbers)

    run(test)


def test_topics_are_subscribed_once_and_given_up_after_a_second(redis: RedisServer) -> None:
    async def test() -> None:
        client = redis.client(decode_responses=True)

        def channels() -> set[str]:
            found: object = client.pubsub_channels("asgiws:room:*")
            assert isinstance(found, list)
            return set(found)

        async with workers_of(redis.url, 1) as workers:
            hub = workers.hubs[0]
            topics = [f"room:{number}" for number in range(1200)]  # more than a batch
            listeners = dict(zip(topics, await asyncio.gather(*(listen(hub, topic) for topic in topics)), strict=True))
            assert channels() == {f"asgiws:{topic}" for topic in topics}
            for topic in topics[1:]:
                hub.unsubscribe(topic, listeners[topic])
            again = await listen(hub, topics[1])
            hub.second_passed()
            await until(lambda: channels() == {"asgiws:room:0", "asgiws:room:1"})
            hub.unsubscribe(topics[1], again)
            hub.second_passed()
            again = await listen(hub, topics[1])  # while it is being given up
            await hub.publish(Message(topics[1], "hello"))
            assert await read(again, 1) == ["hello"]

    run(test)


@pytest.mark.slow
def test_a_message_of_a_stranger_that_is_too_long_is_dropped_or_a_gap(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        client = redis.client()
        async with workers_of(redis.url, 2) as workers:
            listeners = [await listen(hub, "a") for hub in workers.hubs]
            client.config_set("client-output-buffer-limit", "pubsub 0 0 0")
            for _ in range(2):
                assert client.publish("asgiws:a", b"x" * 33 * MIB) == 2
            client.publish("asgiws:a", "after it")
            assert [await read(listener, 1) for listener in listeners] == [["after it"]] * 2
            assert [hub.oversized for hub in workers.hubs] == [2, 2]
            # As Redis is set up by default, it closes the connections of all subscribers.
            client.config_set("client-output-buffer-limit", "pubsub 33554432 8388608 60")
            client.publish("asgiws:a", b"x" * 33 * MIB)
            await workers.lost()
            await workers.connected()
            for listener in listeners:
                with pytest.raises(TopicsUnavailable):
                    await read(listener, 1)
            await assert_whole(workers, "a")

    run(test)
    dropped = [record for record in caplog.records if "was dropped" in record.message]
    assert len(dropped) == 2
    assert "33554432" not in dropped[0].message
    assert "allowed: 524288 (--max-publish-size)" in dropped[0].message


@pytest.mark.slow
def test_a_worker_that_does_not_read_has_a_gap(redis: RedisServer) -> None:
    """Its event loop is blocked until the broker gives up on it."""

    async def test() -> None:
        client = redis.client()
        client.config_set("client-output-buffer-limit", "pubsub 1048576 0 0")
        async with workers_of(redis.url, 1) as workers:
            listener = await listen(workers.hubs[0], "a")
            while client.publish("asgiws:a", b"x" * 64 * KIB):
                pass
            await workers.lost()
            await workers.connected()
            with pytest.raises(TopicsUnavailable):
                await read(listener, 1_000_000)
            await assert_whole(workers, "a")

    run(test)


@pytest.mark.slow
def test_a_slow_broker_delays_and_loses_nothing(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            listener = await listen(workers.hubs[1], "a")
            redis.client().client_pause(1500)
            coming = asyncio.create_task(listen(workers.hubs[0], "b"))
            await workers.hubs[0].publish(Message("a", "late"))
            assert await read(listener, 1) == ["late"]
            await coming

    run(test)
