"""Topics over a real redis-server: what arrives, in which order, and that nothing is missed in silence."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgiws.topics.hub import Hub
from asgiws.topics.message import Message, TopicsUnavailable
from tests.conftest import PATIENCE_S
from tests.redis_server import RedisServer, redis_server
from tests.topics.brokers.machines import Workers, listen, read, run, until, workers_of
from tests.topics.test_relay import Clock

KIB = 1024
MIB = 1024 * KIB


def test_a_message_reaches_the_subscribers_of_all_workers_and_nobody_else(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 3, topic_prefix="p-") as workers:
            first, second, third = workers.hubs
            listeners = [await listen(hub, "p-room:1") for hub in (first, second)]
            other = await listen(third, "p-room:2")
            for data in ("hello", b"\x00\xff", "", "grüße", b"valid UTF-8, and yet bytes"):
                await third.publish(Message("p-room:1", data))
            await third.publish(Message("p-room:2", "apart"))
            for listener in listeners:
                assert await read(listener, 5) == ["hello", b"\x00\xff", "", "grüße", b"valid UTF-8, and yet bytes"]
            assert await read(other, 1) == ["apart"]
            assert [hub.received for hub in workers.hubs] == [5, 5, 1]

    run(test)


def test_a_program_in_any_language_publishes_with_a_plain_publish(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 1) as workers:
            listener = await listen(workers.hubs[0], "room:1")
            client = redis.client()
            assert client.publish("asgiws:room:1", "grüße") == 1
            client.publish("asgiws:room:1", b"\xff\xd8 a picture")
            client.publish("asgiws:room:1", b"\xffasgibtext as bytes")
            assert await read(listener, 3) == ["grüße", b"\xff\xd8 a picture", b"text as bytes"]

    run(test)


def test_excluded_subscriber_is_left_out_and_the_others_are_not(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            first, second = workers.hubs
            own, beside, far = await listen(first, "a"), await listen(first, "a"), await listen(second, "a")
            for data in ("not for own", b"nor this"):
                await first.publish(Message("a", data, own))
            await second.publish(Message("a", "of somebody who is not there", own))
            await first.publish(Message("a", "for all"))
            assert await read(own, 2) == ["of somebody who is not there", "for all"]
            everything = ["not for own", b"nor this", "of somebody who is not there", "for all"]
            assert await read(beside, 4) == await read(far, 4) == everything

    run(test)


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


def test_what_is_published_after_the_subscription_is_confirmed_is_not_missed(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            first, second = workers.hubs
            for number in range(100):
                listener = await listen(first, f"room:{number}")
                await second.publish(Message(f"room:{number}", str(number)))
                assert await read(listener, 1) == [str(number)]

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


async def assert_whole(workers: Workers, topic: str) -> None:
    """Check that everything works for a topic on which nobody listens yet."""
    listeners = [await listen(hub, topic) for hub in workers.hubs]
    await workers.hubs[0].publish(Message(topic, "hello"))
    for listener in listeners:
        assert await read(listener, 1) == ["hello"]


@pytest.mark.slow
def test_a_killed_subscription_is_a_gap_and_never_silent(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            first, second = workers.hubs
            listeners = [await listen(hub, "a") for hub in (first, second)]
            await first.publish(Message("a", "before"))
            assert [await read(listener, 1) for listener in listeners] == [["before"], ["before"]]
            redis.kill_subscribers()
            await workers.lost()
            await workers.connected()
            for listener in listeners:
                with pytest.raises(TopicsUnavailable, match="messages of a were lost"):
                    await read(listener, 1)
            assert [hub.gaps for hub in (first, second)] == [1, 1]
            await assert_whole(workers, "a")

    run(test)


@pytest.mark.slow
def test_a_broker_that_dies_and_comes_back(redis: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            first, second = workers.hubs
            listener, ignored = await listen(first, "a"), await listen(second, "a")
            second.recovery.ends_at_gap = False
            redis.kill()
            await until(lambda: all(broker.state == "deaf" for broker in workers.brokers))
            assert first.deaf
            for _ in range(2):
                with pytest.raises(TopicsUnavailable, match=f"broker {redis.url} cannot be reached: .*redis.sock"):
                    await first.publish(Message("a", "lost"))
            with pytest.raises(TopicsUnavailable):
                await listen(first, "a")
            with pytest.raises(TopicsUnavailable):
                await listen(first, "b")
            redis.start()
            await workers.connected()
            with pytest.raises(TopicsUnavailable):
                await read(listener, 1)
            await first.publish(Message("a", "again"))
            assert await read(ignored, 1) == ["again"]
            assert second.gaps == 1
            await assert_whole(workers, "b")

    run(test)
    refused = [record for record in caplog.records if "cannot be reached" in record.message]
    assert len(refused) == 2  # of each worker one, however many attempts there were


@pytest.mark.slow
def test_a_broker_that_is_there_later_than_the_worker(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        redis.kill()

        async def test() -> None:
            async with workers_of(redis.url, 1) as workers:
                assert workers.hubs[0].deaf
                with pytest.raises(TopicsUnavailable):
                    await listen(workers.hubs[0], "a")
                redis.start()
                await workers.connected()
                await assert_whole(workers, "a")
                assert workers.hubs[0].reconnects == workers.hubs[0].gaps == 0

        run(test)


def test_a_broker_that_stands_still_for_a_moment_loses_nothing(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            clock = Clock()
            listener = await listen(workers.hubs[1], "a")
            redis.suspend()
            publishing = asyncio.create_task(workers.hubs[0].publish(Message("a", "late")))
            await asyncio.sleep(0)
            for _ in range(6):
                clock.pass_by(1.01)
                await asyncio.sleep(0.001)
            with pytest.raises(TopicsUnavailable, match="took nothing for 5 s"):
                await publishing
            redis.resume()
            await workers.hubs[0].publish(Message("a", "next"))
            assert await read(listener, 2) == ["late", "next"]  # raised, and delivered all the same
            assert workers.hubs[1].reconnects == 0

    run(test)


@pytest.mark.slow
def test_a_broker_that_stands_still_is_lost_although_its_sockets_are_open(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 1) as workers:
            hub, clock = workers.hubs[0], Clock()
            listener = await listen(hub, "a")
            redis.suspend()
            while not hub.deaf:
                clock.pass_by(1.01)
                await asyncio.sleep(0.001)
            redis.resume()
            await workers.connected()
            with pytest.raises(TopicsUnavailable):
                await read(listener, 1)
            assert hub.reconnects == hub.gaps == 1
            await assert_whole(workers, "a")

    run(test, patience_s=600)


def test_a_quiet_worker_probes_its_way_and_measures_it(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 1) as workers:
            round_trips: list[float] = []
            hub, clock = workers.hubs[0], Clock()
            hub.on_bus_lag = round_trips.append
            for count in range(1, 4):
                while len(round_trips) < count:
                    clock.pass_by(0.3)
                    await asyncio.sleep(0.003)
            assert hub.received == hub.reconnects == 0

    run(test, patience_s=600)


def test_a_blocked_event_loop_is_no_lost_broker(redis: RedisServer) -> None:
    """The application blocked the loop for a minute, and the answer to a probe waits to be read."""

    async def test() -> None:
        async with workers_of(redis.url, 1) as workers:
            hub, clock = workers.hubs[0], Clock()
            for _ in range(20):
                clock.pass_by(60)
                await asyncio.sleep(0.005)
            assert hub.reconnects == 0

    run(test, patience_s=3600)


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


def test_what_the_hub_cannot_take_is_a_gap_of_its_topic_only(redis: RedisServer) -> None:
    async def test() -> None:
        client = redis.client()
        async with workers_of(redis.url, 1, topic_queue=64 * KIB) as workers:
            hub = workers.hubs[0]
            flooded, beside = await listen(hub, "a"), await listen(hub, "b")
            for _ in range(3000):  # so that a delivery takes more than a turn
                await listen(hub, "a")
            for _ in range(100):
                client.publish("asgiws:a", b"x" * 8 * KIB)
            with pytest.raises(TopicsUnavailable, match="messages of a were lost"):
                await read(flooded, 100)
            await hub.publish(Message("b", "still here"))
            assert await read(beside, 1) == ["still here"]
            assert hub.gaps >= 1
            assert hub.reconnects == 0

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


class Follower:
    """A subscriber that comes back whenever it is ended, and notes what it misses without that."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.last = 0
        """The number that it read last since it subscribed; 0 before."""
        self.silent_gap = False
        """Whether it has missed a number and was not ended since."""
        self.ended = 0

    async def follow(self) -> None:
        while True:
            try:
                listener = await listen(self._hub, "a")
            except TopicsUnavailable:
                continue
            try:
                while True:
                    number = int(await listener.next())
                    self.silent_gap |= bool(self.last) and number != self.last + 1
                    self.last = number
            except TopicsUnavailable:
                self._hub.unsubscribe("a", listener)
                self.last, self.silent_gap = 0, False
                self.ended += 1


@pytest.mark.slow
def test_thousand_forced_disconnects_leave_no_silent_gap(redis: RedisServer) -> None:
    """A hundred workers are cut off ten times under publishing: who misses a number is ended."""
    rounds, count = 10, 100

    async def publish() -> None:
        client = redis.client()
        for number in itertools.count(1):
            client.publish("asgiws:a", str(number))
            await asyncio.sleep(0.002)

    async def test() -> None:
        async with workers_of(redis.url, count) as workers:
            followers = [Follower(hub) for hub in workers.hubs]
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(work) for work in (publish(), *(each.follow() for each in followers))]
                for ended in range(1, rounds + 1):
                    await until(lambda: all(follower.last for follower in followers))
                    assert not any(follower.silent_gap for follower in followers)
                    redis.kill_subscribers()
                    await until(lambda: all(follower.ended == ended for follower in followers))  # noqa: B023 - awaited
                for task in working:
                    task.cancel()
            assert sum(hub.reconnects for hub in workers.hubs) == rounds * count

    run(test, patience_s=10 * PATIENCE_S)
