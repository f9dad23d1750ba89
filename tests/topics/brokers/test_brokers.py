"""Topics over a real broker of each kind: what arrives, and that nothing is missed in silence."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from asgiws.protocol.limits import KIB
from asgiws.topics.hub import Hub
from asgiws.topics.message import Message, TopicsUnavailable
from tests import PATIENCE_S
from tests.topics.brokers.conftest import BrokerServer
from tests.topics.brokers.machines import assert_whole, listen, read, run, until, workers_of
from tests.topics.test_relay import Clock


def test_a_message_reaches_the_subscribers_of_all_workers_and_nobody_else(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 3, topic_prefix="p-") as workers:
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


def test_a_program_in_any_language_publishes_with_a_plain_publish(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 1) as workers:
            listener = await listen(workers.hubs[0], "room:1")
            for payload in ("grüße".encode(), b"\xff\xd8 a picture", b"\xffasgibtext as bytes"):
                broker.publish("room:1", payload)
            assert await read(listener, 3) == ["grüße", b"\xff\xd8 a picture", b"text as bytes"]

    run(test)


def test_excluded_subscriber_is_left_out_and_the_others_are_not(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 2) as workers:
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


def test_what_is_published_after_the_subscription_is_confirmed_is_not_missed(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 2) as workers:
            first, second = workers.hubs
            for number in range(100):
                listener = await listen(first, f"room:{number}")
                await second.publish(Message(f"room:{number}", str(number)))
                assert await read(listener, 1) == [str(number)]

    run(test)


@pytest.mark.slow
def test_a_killed_subscription_is_a_gap_and_never_silent(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 2) as workers:
            first, second = workers.hubs
            listeners = [await listen(hub, "a") for hub in (first, second)]
            await first.publish(Message("a", "before"))
            assert [await read(listener, 1) for listener in listeners] == [["before"], ["before"]]
            broker.kill_subscribers()
            await workers.lost()
            await workers.connected()
            for listener in listeners:
                with pytest.raises(TopicsUnavailable, match="messages of a were lost"):
                    await read(listener, 1)
            assert [hub.gaps for hub in (first, second)] == [1, 1]
            await assert_whole(workers, "a")

    run(test)


@pytest.mark.slow
def test_a_broker_that_dies_and_comes_back(broker: BrokerServer, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 2) as workers:
            first, second = workers.hubs
            listener, ignored = await listen(first, "a"), await listen(second, "a")
            second.recovery.ends_at_gap = False
            broker.kill()
            await until(lambda: all(broker.state == "deaf" for broker in workers.brokers))
            assert first.deaf
            for _ in range(2):
                with pytest.raises(TopicsUnavailable, match=f"broker {broker.url} cannot be reached: .*111"):
                    await first.publish(Message("a", "lost"))
            with pytest.raises(TopicsUnavailable):
                await listen(first, "a")
            with pytest.raises(TopicsUnavailable):
                await listen(first, "b")
            broker.start()
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
def test_a_broker_that_is_there_later_than_the_worker(broker: BrokerServer) -> None:
    broker.kill()

    async def test() -> None:
        async with workers_of(broker.url, 1) as workers:
            assert workers.hubs[0].deaf
            with pytest.raises(TopicsUnavailable):
                await listen(workers.hubs[0], "a")
            broker.start()
            await workers.connected()
            await assert_whole(workers, "a")
            assert workers.hubs[0].reconnects == workers.hubs[0].gaps == 0

    run(test)


def test_a_broker_that_stands_still_for_a_moment_loses_nothing(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 2) as workers:
            clock = Clock()
            listener = await listen(workers.hubs[1], "a")
            broker.suspend()
            publishing = asyncio.create_task(workers.hubs[0].publish(Message("a", "late")))
            await asyncio.sleep(0)
            for _ in range(6):
                clock.pass_by(1.01)
                await asyncio.sleep(0.001)
            with pytest.raises(TopicsUnavailable, match="took nothing for 5 s"):
                await publishing
            broker.resume()
            await workers.hubs[0].publish(Message("a", "next"))
            assert await read(listener, 2) == ["late", "next"]  # raised, and delivered all the same
            assert workers.hubs[1].reconnects == 0

    run(test)


@pytest.mark.slow
def test_a_broker_that_stands_still_is_lost_although_its_sockets_are_open(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 1) as workers:
            hub, clock = workers.hubs[0], Clock()
            listener = await listen(hub, "a")
            broker.suspend()
            while not hub.deaf:
                clock.pass_by(1.01)
                await asyncio.sleep(0.001)
            broker.resume()
            await workers.connected()
            with pytest.raises(TopicsUnavailable):
                await read(listener, 1)
            assert hub.reconnects == hub.gaps == 1
            await assert_whole(workers, "a")

    run(test, patience_s=600)


def test_a_quiet_worker_probes_its_way_and_measures_it(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 1) as workers:
            round_trips: list[float] = []
            hub, clock = workers.hubs[0], Clock()
            hub.on_bus_lag = round_trips.append
            for count in range(1, 4):
                while len(round_trips) < count:
                    clock.pass_by(0.3)
                    await asyncio.sleep(0.003)
            assert hub.received == hub.reconnects == 0

    run(test, patience_s=600)


def test_a_blocked_event_loop_is_no_lost_broker(broker: BrokerServer) -> None:
    """The application blocked the loop for a minute, and the answer to a probe waits to be read."""

    async def test() -> None:
        async with workers_of(broker.url, 1) as workers:
            hub, clock = workers.hubs[0], Clock()
            for _ in range(20):
                clock.pass_by(60)
                await asyncio.sleep(0.005)
            assert hub.reconnects == 0

    run(test, patience_s=3600)


def test_what_the_hub_cannot_take_is_a_gap_of_its_topic_only(broker: BrokerServer) -> None:
    async def test() -> None:
        async with workers_of(broker.url, 1, topic_queue=64 * KIB) as workers:
            hub = workers.hubs[0]
            flooded, beside = await listen(hub, "a"), await listen(hub, "b")
            for _ in range(3000):  # so that a delivery takes more than a turn
                await listen(hub, "a")
            for _ in range(100):
                broker.publish("a", b"x" * 8 * KIB)
            with pytest.raises(TopicsUnavailable, match="messages of a were lost"):
                await read(flooded, 100)
            await hub.publish(Message("b", "still here"))
            assert await read(beside, 1) == ["still here"]
            assert hub.gaps >= 1
            assert hub.reconnects == 0

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
def test_thousand_forced_disconnects_leave_no_silent_gap(broker: BrokerServer) -> None:
    """A hundred workers are cut off ten times under publishing: who misses a number is ended."""
    rounds, count = 10, 100

    async def publish() -> None:
        for number in itertools.count(1):
            broker.publish("a", b"%d" % number)
            await asyncio.sleep(0.002)

    async def test() -> None:
        async with workers_of(broker.url, count) as workers:
            followers = [Follower(hub) for hub in workers.hubs]
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(work) for work in (publish(), *(each.follow() for each in followers))]
                for ended in range(1, rounds + 1):
                    await until(lambda: all(follower.last for follower in followers))
                    assert not any(follower.silent_gap for follower in followers)
                    broker.kill_subscribers()
                    await until(lambda: all(follower.ended == ended for follower in followers))  # noqa: B023 - awaited
                for task in working:
                    task.cancel()
            assert sum(hub.reconnects for hub in workers.hubs) == rounds * count

    run(test, patience_s=10 * PATIENCE_S)
