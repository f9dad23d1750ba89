"""Recovery: no subscriber that comes back misses a message or gets one twice, and no worker has a silent gap."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from functools import partial

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from asgiws.config.options import Config
from asgiws.server.state.encoders import Encoders
from asgiws.topics.history import START, UNKNOWN, Keep, Past, Position, parse_position
from asgiws.topics.hub import Hub
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message, TopicsUnavailable
from tests.topics.test_relay import KIB, machine, run, until

KEEP = Keep(10_000, 600)


class Client(Listener):
    """A subscriber that reads slowly what it missed, and remembers what it got."""

    def __init__(self, turns: int = 0) -> None:
        super().__init__(100_000)
        self._turns = turns
        self.ended = False

    async def deliver_past(self, messages: Iterable[Message]) -> None:
        for message in messages:
            for _ in range(self._turns):
                await asyncio.sleep(0)
            self.queue_past([message])

    def on_gap(self, topic: str) -> None:
        self.ended = True

    def got(self) -> list[tuple[Position, str]]:
        """Return everything that has come, in order."""
        texts = [json.loads(message.data) for message in self._queue]
        return [(parse_position(text["at"]), text["data"]) for text in texts]

    def has(self, count: int) -> bool:
        return len(self._queue) >= count

    def offsets(self) -> list[int]:
        return [at.offset for at, _ in self.got()]


def kept(text: str, exclude: Client | None = None) -> Message:
    return Message("a", text, exclude, KEEP)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 1), st.integers(0, 300)),
        st.tuples(st.just("resume"), st.integers(0, 1), st.integers(0, 30)),
        st.tuples(st.just("turn"), st.integers(0, 3), st.just(0)),
    ),
    min_size=1,
    max_size=80,
)


@pytest.mark.parametrize("workers", [0, 2])
@given(steps=STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_past_and_live_messages_join_without_a_hole_or_a_repetition(
    workers: int, steps: list[tuple[str, int, int]]
) -> None:
    """One process (0) and two workers; subscribers come at any moment with any position, and read at any pace."""

    async def test() -> None:
        async with machine() as made:
            hubs = [await made.add_worker() for _ in range(workers)] or [Hub(asyncio.get_running_loop())]
            history = made.relay.history if workers else hubs[0].history
            tasks: list[asyncio.Task[object]] = []
            clients: list[tuple[Client, int, asyncio.Task[bool]]] = []
            published = 0
            await hubs[0].publish(kept("first"))
            published += 1
            for what, first, second in steps:
                hub = hubs[first % len(hubs)]
                if what == "publish":
                    published += 1
                    tasks.append(asyncio.create_task(hub.publish(kept("x" * second))))
                elif what == "turn":
                    for _ in range(first):
                        await asyncio.sleep(0)
                else:
                    top = history.position("a")
                    since = top._replace(offset=min(second, top.offset))
                    client = Client(second % 3)
                    clients.append((client, since.offset, asyncio.create_task(hub.resume("a", client, since))))
            await asyncio.gather(*tasks)
            for client, since_offset, resuming in clients:
                assert await resuming
                expected = list(range(since_offset + 1, published + 1))
                await until(partial(client.has, len(expected)))
                assert client.offsets() == expected

    run(test)


def test_a_subscriber_that_comes_during_a_large_delivery_gets_each_message_once() -> None:
    """A thousand subscribers have the message already, the others and the new one have not."""

    async def test() -> None:
        hub = Hub(asyncio.get_running_loop())
        others = [Client() for _ in range(2500)]
        for other in others:
            await hub.subscribe("a", other)
        await hub.publish(kept("first"))
        assert hub.delivered == 1000
        late, live = Client(), Client()
        assert await hub.resume("a", late, START)
        await hub.subscribe("a", live)
        await hub.publish(kept("second"))
        await hub.publish(kept("third"))
        await until(lambda: len(others[0].got()) == len(late.got()) == 3)
        assert late.offsets() == others[-1].offsets() == [1, 2, 3]

    run(test)


def test_what_comes_while_much_is_read_is_not_held_without_limit() -> None:
    async def test() -> None:
        hub = Hub(asyncio.get_running_loop())
        for number in range(20):
            await hub.publish(kept(str(number)))
        slow = Client(turns=400)
        resuming = asyncio.create_task(hub.resume("a", slow, START))
        for number in range(20, 4000):
            await hub.publish(kept(str(number)))
            await asyncio.sleep(0)
        slow._turns = 0
        assert await resuming
        await hub.publish(kept("last"))
        assert slow.offsets() == list(range(1, 4002))

    run(test)


def test_a_message_that_nobody_keeps_and_that_cannot_be_held_is_not_missed_in_silence() -> None:
    async def test() -> None:
        hub = Hub(asyncio.get_running_loop())
        await hub.publish(kept("first"))
        await hub.publish(kept("second"))
        slow = Client(turns=2000)
        resuming = asyncio.create_task(hub.resume("a", slow, START))
        await asyncio.sleep(0)
        for _ in range(1001):
            await hub.publish(Message("a", "not kept"))
        with pytest.raises(TopicsUnavailable, match="that are not kept"):
            await resuming
        assert hub.subscription_count == 0

    run(test)


def test_a_position_that_is_not_kept_any_more_is_not_recovered_and_brings_what_is_kept() -> None:
    async def test() -> None:
        async with machine() as made:
            hub = await made.add_worker()
            for number in range(10):
                await hub.publish(Message("a", str(number), None, Keep(3, 600)))
            top = made.relay.history.position("a")
            for since, recovered, offsets in (
                (START, True, [8, 9, 10]),
                (UNKNOWN, False, [8, 9, 10]),
                (Position("another", 9), False, [8, 9, 10]),
                (Position("an epoch of a broker", 9), False, [8, 9, 10]),
                (top._replace(offset=5), False, [8, 9, 10]),
                (top._replace(offset=7), True, [8, 9, 10]),
                (top._replace(offset=9), True, [10]),
                (top, True, []),
                (top._replace(offset=11), False, [8, 9, 10]),
            ):
                client = Client()
                assert await hub.resume("a", client, since) is recovered, since
                assert client.offsets() == offsets
            assert (hub.recovery.recovered, hub.recovery.unrecovered) == (3, 5)

    run(test)


def test_clients_that_come_back_together_share_what_is_read() -> None:
    """And those that have seen everything need nothing. What is read is as new as what the worker has delivered."""

    async def test() -> None:
        async with machine() as made:
            hub, other = await made.add_worker(), await made.add_worker()
            for number in range(100):
                await hub.publish(kept(str(number)))
            top = made.relay.history.position("a")
            live = Client()
            await other.subscribe("a", live)
            reads: list[Position] = []
            read = made.relay.history.read

            def count_reads(topic: str, since: Position) -> Past:
                reads.append(since)
                return read(topic, since)

            made.relay.history.read = count_reads  # type: ignore[method-assign]
            clients = [Client() for _ in range(50)]
            for client in clients:
                assert await other.resume("a", client, START)
            for client in (up_to_date := [Client() for _ in range(50)]):
                assert await other.resume("a", client, top)
            assert len(reads) == 1
            await hub.publish(kept("live"))
            await until(lambda: live.has(1))
            late = Client()
            assert await other.resume("a", late, START)
            for client in (*clients, late):
                await until(partial(client.has, 101))
                assert client.offsets() == list(range(1, 102))
            assert all(client.offsets() == [101] for client in up_to_date)
            assert len({id(client._queue[0]) for client in clients}) == 1

    run(test)


def test_large_history_comes_in_pages_and_in_order() -> None:
    async def test() -> None:
        async with machine() as made:
            hub, other = await made.add_worker(), await made.add_worker()
            for _ in range(40):
                await hub.publish(kept("x" * 100 * KIB))
            client = Client()
            resuming = asyncio.create_task(other.resume("a", client, START))
            for _ in range(40):
                await hub.publish(kept("y" * KIB))
            assert await resuming
            await until(lambda: len(client.got()) == 80)
            assert client.offsets() == list(range(1, 81))

    run(test)


def test_a_subscriber_that_published_without_itself_does_not_get_it_live() -> None:
    async def test() -> None:
        async with machine() as made:
            hub = await made.add_worker()
            own, other = Client(), Client()
            await hub.resume("a", own, START)
            await hub.resume("a", other, START)
            await hub.publish(kept("not for own", own))
            await hub.publish(kept("for both"))
            await until(lambda: len(other.got()) == 2)
            assert own.got()[0][1] == "for both"

    run(test)


# ---- gaps of a worker


async def miss(made: object, hub: Hub, other: Hub, place: int, message: Message) -> None:
    """Publish until a worker that does not read has missed something, and let it read again."""
    client = made.clients[place]  # type: ignore[attr-defined]
    relay = made.relay  # type: ignore[attr-defined]
    client._transport.pause_reading()
    gaps = relay.gaps
    while relay.gaps == gaps:
        await other.publish(message)
    for _ in range(10):
        await other.publish(message)
    client._transport.resume_reading()
    await until(lambda: hub.gaps > 0)


GAP_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, 1), st.integers(0, 4000)),
        st.tuples(st.sampled_from(["pause", "go on"]), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("resume"), st.integers(0, 1), st.integers(0, 30)),
        st.tuples(st.just("turn"), st.integers(0, 5), st.just(0)),
    ),
    min_size=20,
    max_size=120,
)


@given(steps=GAP_STEPS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_gaps_at_any_moment_are_filled_without_a_hole_or_a_repetition(steps: list[tuple[str, int, int]]) -> None:
    """Workers that stop reading with little room for what waits, while subscribers come and messages are published."""

    async def test() -> None:
        async with machine(queue_most_bytes=4 * KIB) as made:
            hubs = [await made.add_worker(buffer_bytes=4 * KIB) for _ in range(2)]
            publishing: list[asyncio.Task[None]] = []
            clients: list[tuple[Client, int, asyncio.Task[bool]]] = []

            def resume(hub: Hub, offset: int) -> None:
                top = made.relay.history.position("a")
                client, since = Client(offset % 3), top._replace(offset=min(offset, top.offset))
                clients.append((client, since.offset, asyncio.create_task(hub.resume("a", client, since))))

            await hubs[0].publish(kept("first"))
            for hub in hubs:
                resume(hub, 0)
            for what, first, second in steps:
                transport = made.clients[first % 2]._transport
                if what == "publish":
                    publishing.append(asyncio.create_task(hubs[first].publish(kept("x" * second))))
                elif what == "resume":
                    resume(hubs[first], second)
                elif what == "pause":
                    transport.pause_reading()
                elif what == "go on":
                    transport.resume_reading()
                else:
                    for _ in range(first):
                        await asyncio.sleep(0)
            for each in made.clients:
                each._transport.resume_reading()
            await asyncio.gather(*publishing)
            published = 1 + len(publishing)
            for client, since, resuming in clients:
                assert await resuming
                await until(partial(client.has, published - since))
                assert client.offsets() == list(range(since + 1, published + 1))
            event(f"gaps: {sum(hub.gaps for hub in hubs) > 0}")

    run(test)


@pytest.mark.parametrize("since", [None, START])
def test_a_worker_fills_its_gap_from_the_history(since: Position | None) -> None:
    async def test() -> None:
        async with machine(queue_most_bytes=64 * KIB) as made:
            hub, other = await made.add_worker(), await made.add_worker()
            await other.publish(kept("before"))
            gap, witness = Client(), Client()
            await other.resume("a", witness, START)
            if since is None:
                await hub.subscribe("a", gap)
            else:
                await hub.resume("a", gap, since)
            await miss(made, hub, other, 0, kept("x" * KIB))
            for _ in range(20):
                await other.publish(kept("after"))
            top = made.relay.history.position("a").offset
            await until(lambda: len(witness.got()) == top and gap.offsets()[-1] == top)
            assert gap.offsets() == list(range(1 if since else 2, top + 1))
            assert not gap.ended
            assert (hub.gaps, hub.recovery.filled) == (1, 1)

    run(test)


def test_a_gap_that_is_not_kept_ends_the_subscribers_and_shows_them_nothing_behind_it() -> None:
    """So what a client has seen last is before the gap, and when it comes back it learns that it missed something."""

    async def test() -> None:
        async with machine(queue_most_bytes=64 * KIB) as made:
            hub, other = await made.add_worker(), await made.add_worker()
            client = Client()
            await other.publish(Message("a", "before", None, Keep(5, 600)))
            await hub.resume("a", client, START)
            await miss(made, hub, other, 0, Message("a", "x" * KIB, None, Keep(5, 600)))
            for _ in range(20):
                await other.publish(Message("a", "after", None, Keep(5, 600)))
            await until(lambda: client.ended)
            seen = client.got()
            assert [at.offset for at, _ in seen] == list(range(1, len(seen) + 1))
            assert len(seen) < made.relay.history.position("a").offset - 20
            again = Client()
            assert not await hub.resume("a", again, seen[-1][0])
            assert hub.recovery.filled == 0

    run(test)


def test_a_gap_with_a_message_that_was_not_published_to_be_kept_is_not_silent() -> None:
    async def test() -> None:
        async with machine(queue_most_bytes=64 * KIB) as made:
            hub, other = await made.add_worker(), await made.add_worker()
            client = Client()
            await other.publish(kept("before"))
            await hub.resume("a", client, START)
            await miss(made, hub, other, 0, Message("a", "x" * KIB))
            await until(lambda: client.ended)

    run(test)


def test_a_gap_whose_history_does_not_answer_ends_the_subscribers() -> None:
    async def test() -> None:
        async with machine(queue_most_bytes=64 * KIB) as made:
            hub = await made.add_worker()
            client = Client()
            await hub.publish(kept("before"))
            await hub.resume("a", client, START)
            made.clients[0]._transport.abort()
            await asyncio.sleep(0)
            hub.on_gap("a")
            await until(lambda: client.ended)

    run(test)


# ---- counts


def test_sockets_of_all_workers_are_counted_and_a_worker_that_has_died_is_not() -> None:
    """Listeners in the process are no sockets: they have no encoder."""

    class Socket(Client):
        encoder = Encoders(Config.from_options({}).deflate_settings()).encoder_for(None)  # type: ignore[assignment]

    async def counted(hubs: list[Hub], expected: int) -> None:
        """Let a second pass, and wait until all workers know."""
        for hub in hubs:
            hub.second_passed()
        while [await hub.count("a") for hub in hubs] != [expected] * 3:
            pass

    async def test() -> None:
        async with machine() as made:
            hubs = [await made.add_worker() for _ in range(3)]
            sockets = [Socket() for _ in range(4)]
            await hubs[0].subscribe("a", sockets[0])
            await hubs[1].subscribe("a", sockets[1])
            await hubs[1].resume("a", sockets[2], START)
            await hubs[2].subscribe("a", sockets[3])
            await hubs[2].subscribe("a", Client())
            await counted(hubs, 4)
            assert await hubs[0].count("unheard") == 0
            hubs[1].unsubscribe("a", sockets[1])
            hubs[0].unsubscribe("a", sockets[0])
            await counted(hubs, 2)
            made.clients[1]._transport.abort()
            await until(lambda: len(made.relay._subscribed[b"a"]) == 1)
            assert await hubs[0].count("a") == 1

    run(test)
