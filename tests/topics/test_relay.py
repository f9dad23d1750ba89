"""The relay between workers, over real socket pairs: each worker is a hub with the relay's client as its bus."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asgiws.topics.hub import Hub
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message, TopicsUnavailable
from asgiws.topics.relay import Relay
from asgiws.topics.relay_client import RelayClient
from tests import PATIENCE_S

KIB = 1024
MIB = 1024 * KIB


class Machine:
    """A relay and its workers."""

    def __init__(self, queue_most_bytes: int = 8 * 1024 * KIB) -> None:
        self.relay = Relay(queue_most_bytes)
        self.round_trips: list[float] = []
        self.clients: list[RelayClient] = []

    async def add_worker(self, buffer_bytes: int = 0) -> Hub:
        """Connect a worker, with a socket that holds about so much; 0 for what the system chooses."""
        hub = Hub(asyncio.get_running_loop())
        ours, theirs = socket.socketpair()
        if buffer_bytes:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        await self.relay.connect(ours)
        hub.on_bus_lag = self.round_trips.append
        self.clients.append(await RelayClient.connect(theirs, hub))
        return hub

    async def close(self) -> None:
        for client in self.clients:
            client.close()
        await asyncio.sleep(0)


@contextlib.asynccontextmanager
async def machine(queue_most_bytes: int = 8 * 1024 * KIB) -> AsyncIterator[Machine]:
    made = Machine(queue_most_bytes)
    try:
        yield made
    finally:
        await made.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test()

    asyncio.run(bounded())


async def listen(hub: Hub, topic: str, limit: int = 10_000) -> Listener:
    listener = Listener(limit)
    assert await hub.subscribe(topic, listener)
    return listener


async def read(listener: Listener, count: int) -> list[str | bytes]:
    return [await listener.next() for _ in range(count)]


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something has happened."""
    while not condition():  # noqa: ASYNC110 - what it waits for has no event, as it is the far end's
        await asyncio.sleep(0)


def test_a_message_reaches_the_subscribers_of_all_workers_and_nobody_else() -> None:
    async def test() -> None:
        async with machine() as made:
            first, second, third = [await made.add_worker() for _ in range(3)]
            listeners = [await listen(hub, "room:1") for hub in (first, second)]
            other = await listen(third, "room:2")
            await third.publish(Message("room:1", "hello"))
            await third.publish(Message("room:1", b"\x00\xff"))
            await third.publish(Message("room:2", "apart"))
            for listener in listeners:
                assert await read(listener, 2) == ["hello", b"\x00\xff"]
            assert await read(other, 1) == ["apart"]

    run(test)


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("ab"), st.integers(0, 3000)), min_size=1, max_size=60))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_all_subscribers_of_all_topics_see_one_order(published: list[tuple[int, str, int]]) -> None:
    """Whoever publishes, and whatever turns the loop takes: each publisher's own order is kept, too."""

    async def test() -> None:
        async with machine() as made:
            hubs = [await made.add_worker() for _ in range(3)]
            listeners = {(place, topic): await listen(hub, topic) for place, hub in enumerate(hubs) for topic in "ab"}

            async def publish(place: int) -> None:
                for number, (by, topic, size) in enumerate(published):
                    if by == place:
                        await hubs[place].publish(Message(topic, f"{place}:{number}:" + "x" * size))
                        if size % 2:
                            await asyncio.sleep(0)

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


def test_what_is_published_after_the_subscription_is_confirmed_is_not_missed() -> None:
    async def test() -> None:
        async with machine() as made:
            first, second = await made.add_worker(), await made.add_worker()
            for number in range(100):
                listener = await listen(first, f"room:{number}")
                await second.publish(Message(f"room:{number}", str(number)))
                assert await read(listener, 1) == [str(number)]

    run(test)


def test_excluded_subscriber_is_left_out_and_the_others_are_not() -> None:
    async def test() -> None:
        async with machine() as made:
            first, second = await made.add_worker(), await made.add_worker()
            own, beside, far = await listen(first, "a"), await listen(first, "a"), await listen(second, "a")
            await first.publish(Message("a", "not for own", own))
            await first.publish(Message("a", "for all"))
            assert await read(own, 1) == ["for all"]
            assert await read(beside, 2) == await read(far, 2) == ["not for own", "for all"]

    run(test)


def test_a_worker_that_does_not_read_gets_a_gap_and_nobody_waits_for_it() -> None:
    async def test() -> None:
        async with machine(queue_most_bytes=2 * 1024 * KIB) as made:
            fast, stopped = await made.add_worker(), await made.add_worker()
            quick = await listen(fast, "prices", limit=100_000)
            slow, untouched = await listen(stopped, "prices", limit=100_000), await listen(stopped, "news")
            client = made.clients[1]
            client._transport.pause_reading()  # what SIGSTOP does, as far as the relay sees
            payload = "x" * KIB
            for _ in range(6_000):
                await fast.publish(Message("prices", payload))
            assert len(await read(quick, 6_000)) == 6_000
            assert made.relay.gaps == 1
            client._transport.resume_reading()
            with pytest.raises(TopicsUnavailable, match="messages of prices were lost"):
                await read(slow, 6_000)
            assert stopped.delivered > 1000
            assert stopped.gaps == 1
            await fast.publish(Message("news", "still here"))
            assert await read(untouched, 1) == ["still here"]

    run(test)


def test_a_worker_that_ends_leaves_no_subscription_and_no_part_of_a_message() -> None:
    async def test() -> None:
        async with machine() as made:
            first, second = await made.add_worker(), await made.add_worker()
            listener = await listen(first, "a")
            await listen(second, "a")
            made.clients[1]._transport.write(b"\x00\x00\x10\x00\x01\x01\x01" + bytes(8) + b"a" + b"half")
            made.clients[1]._transport.abort()
            await until(lambda: len(made.relay._subscribed[b"a"]) == 1)
            await first.publish(Message("a", "whole"))
            assert await read(listener, 1) == ["whole"]

    run(test)


def test_an_unused_topic_is_given_up_after_a_second_and_not_before() -> None:
    async def test() -> None:
        async with machine() as made:
            hub, other = await made.add_worker(), await made.add_worker()
            listener = await listen(hub, "a")
            hub.unsubscribe("a", listener)
            again = await listen(hub, "a")
            hub.second_passed()
            await other.publish(Message("a", "kept"))
            assert await read(again, 1) == ["kept"]
            hub.unsubscribe("a", again)
            hub.second_passed()
            assert hub.topic_count == 0
            await until(lambda: not made.relay._subscribed)

    run(test)


def test_publishing_without_a_supervisor_is_unavailable() -> None:
    async def test() -> None:
        async with machine() as made:
            hub = await made.add_worker()
            made.clients[0]._transport.abort()
            with pytest.raises(TopicsUnavailable, match="the supervisor has gone"):
                await hub.publish(Message("a", "hello"))
            with pytest.raises(TopicsUnavailable, match="the supervisor has gone"):
                await hub.subscribe("a", Listener(1))
            assert hub.topic_count == 0 or hub.subscription_count == 0

    run(test)


def test_probe_comes_back_behind_what_waits() -> None:
    async def test() -> None:
        async with machine() as made:
            await made.add_worker()
            made.clients[0].probe()
            await until(lambda: bool(made.round_trips))
            assert 0 < made.round_trips[0] < PATIENCE_S

    run(test)


def test_a_gap_between_an_excluding_publish_and_its_return_does_no_harm() -> None:
    """The publisher's worker falls behind while its own messages, with a socket left out, are still on their way."""

    async def test() -> None:
        async with machine(queue_most_bytes=64 * KIB) as made:
            hub, other = await made.add_worker(), await made.add_worker()
            own = await listen(hub, "a")
            made.clients[0]._transport.pause_reading()
            for _ in range(1000):
                await other.publish(Message("a", "x" * KIB))
            publishing = [asyncio.create_task(hub.publish(Message("a", "not for own", own))) for _ in range(2000)]
            made.clients[0]._transport.resume_reading()
            await asyncio.gather(*publishing)
            with pytest.raises(TopicsUnavailable, match="messages of a were lost"):
                await read(own, 1000)
            hub.unsubscribe("a", own)
            again, beside = await listen(hub, "a"), await listen(hub, "a")
            await hub.publish(Message("a", "not for again", again))
            await hub.publish(Message("a", "for both"))
            assert await read(again, 1) == ["for both"]
            assert await read(beside, 2) == ["not for again", "for both"]

    run(test)


def test_publishing_from_a_stopped_relay_on_does_not_pile_up_in_the_socket() -> None:
    """A thousand publishers wait at the same moment: what may be sent to a supervisor at once goes for all of them."""

    async def test() -> None:
        ours, theirs = socket.socketpair()
        hub, relay = Hub(asyncio.get_running_loop()), Relay(MIB)
        client = await RelayClient.connect(theirs, hub)
        publishing = [asyncio.create_task(hub.publish(Message("a", "x" * 64 * KIB))) for _ in range(1000)]
        most = 0
        ours.setblocking(False)
        await asyncio.sleep(0)
        for _ in range(100):  # the relay reads a part, and whoever waited may go on
            with contextlib.suppress(BlockingIOError):
                while ours.recv(MIB):
                    pass
            await asyncio.sleep(0)
            most = max(most, client._transport.get_write_buffer_size())
        assert 64 * KIB < most < 2 * MIB
        ours.close()
        with pytest.raises(TopicsUnavailable):
            await asyncio.gather(*publishing)
        await asyncio.gather(*publishing, return_exceptions=True)
        assert relay.relayed == 0

    run(test)


class Clock:
    """The clock of the running loop, which can be set forward."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._real = self._loop.time
        self._ahead_s = 0.0
        self._loop.time = lambda: self._real() + self._ahead_s  # type: ignore[method-assign]

    def pass_by(self, seconds: float) -> None:
        self._ahead_s += seconds


def test_a_subscription_that_is_confirmed_too_late_leaves_nothing_behind() -> None:
    async def test() -> None:
        clock, loop = Clock(), asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        hub, relay = Hub(loop), Relay(MIB)
        client = await RelayClient.connect(theirs, hub)
        late = [asyncio.create_task(hub.subscribe(topic, Listener(1))) for topic in "aac"]
        await asyncio.sleep(0)
        clock.pass_by(6)
        for result in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(result, TopicsUnavailable)
        hub.second_passed()
        coming = asyncio.create_task(listen(hub, "a"))
        await asyncio.sleep(0)
        await relay.connect(ours)  # as a supervisor that was stopped and goes on
        listener = await coming
        await hub.publish(Message("a", "hello"))
        assert await read(listener, 1) == ["hello"]
        hub.unsubscribe("a", listener)
        hub.second_passed()
        assert hub.topic_count == 0
        gone = asyncio.create_task(hub.subscribe("b", Listener(1)))
        await asyncio.sleep(0)
        gone.cancel()
        await until(lambda: b"b" in relay._subscribed)
        await hub.publish(Message("b", "to nobody"))
        hub.second_passed()
        assert hub.topic_count == 0
        await until(lambda: not relay._subscribed)
        client.close()

    run(test)


def test_a_second_call_waits_for_the_confirmation_of_the_first() -> None:
    async def test() -> None:
        async with machine() as made:
            hub, other = await made.add_worker(), await made.add_worker()
            listener = Listener(10)
            first = asyncio.create_task(hub.subscribe("a", listener))
            await asyncio.sleep(0)
            assert await hub.subscribe("a", listener) is False
            await other.publish(Message("a", "hello"))
            assert await read(listener, 1) == ["hello"]
            assert await first

    run(test)


@pytest.mark.parametrize("queue_most_bytes", [1, 64 * KIB])
def test_a_small_queue_recovers_from_a_gap_by_itself(queue_most_bytes: int) -> None:
    async def test() -> None:
        async with machine(queue_most_bytes) as made:
            hub, other = await made.add_worker(), await made.add_worker()
            listener = await listen(hub, "a")
            made.clients[0]._transport.pause_reading()
            while not made.relay.gaps:
                await other.publish(Message("a", "x" * KIB))
            made.clients[0]._transport.resume_reading()
            with pytest.raises(TopicsUnavailable, match="messages of a were lost"):
                await read(listener, 10_000)
            again = await listen(hub, "b")
            await other.publish(Message("b", "y" * 300 * KIB))
            assert await read(again, 1) == ["y" * 300 * KIB]

    run(test)


class Faulty(Listener):
    """A subscriber with a fault."""

    ended = False

    def deliver(self, message: Message, skip_when_slow: bool, hold: bool) -> bool:
        raise RuntimeError("a fault")

    def on_gap(self, topic: str) -> None:
        self.ended = True


def test_a_fault_in_one_delivery_ends_that_subscriber_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        hub = Hub(asyncio.get_running_loop())
        before, faulty = await listen(hub, "a"), Faulty(1)
        await hub.subscribe("a", faulty)
        after = await listen(hub, "a")
        hub.deliver([Message("a", "large" * 100 * KIB), Message("a", "second")])
        for listener in (before, after):
            assert await read(listener, 2) == ["large" * 100 * KIB, "second"]
        await until(lambda: faulty.ended)

    run(test)
    assert "a message of a topic could not be delivered" in caplog.text


def test_delivery_goes_on_after_a_program_cancelled_all_tasks() -> None:
    async def test() -> None:
        async with machine() as made:
            hub, other = await made.add_worker(), await made.add_worker()
            listeners = [await listen(hub, "a") for _ in range(2500)]
            await other.publish(Message("a", "first"))
            await until(lambda: hub.delivered >= 2000)
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
            await asyncio.sleep(0)
            await other.publish(Message("a", "next"))
            for listener in listeners:
                assert await read(listener, 2) == ["first", "next"]

    run(test)
