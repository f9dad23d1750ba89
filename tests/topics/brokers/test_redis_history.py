"""What topics keep in Redis: for clients that come back, and for workers that lost their connection."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from asgiws.topics.history import START, UNKNOWN, Keep, Position, parse_position
from asgiws.topics.hub import Hub
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message, TopicsUnavailable
from tests import PATIENCE_S
from tests.redis_server import RedisServer, redis_server
from tests.topics.brokers.machines import Workers, listen, read, run, until, workers_of

KEEP = Keep(100, 300)
KIB = 1024


class Kept(NamedTuple):
    """A message as a client gets it."""

    at: Position
    text: str


async def read_kept(listener: Listener, count: int) -> list[Kept]:
    found = [json.loads(text) for text in await read(listener, count)]
    return [Kept(parse_position(message["at"]), message["data"]) for message in found]


async def publish(hub: Hub, *texts: str, keep: Keep = KEEP) -> None:
    for text in texts:
        await hub.publish(Message("a", text, keep=keep))


async def resume(hub: Hub, since: Position) -> tuple[Listener, bool]:
    listener = Listener(100_000)
    return listener, await hub.resume("a", listener, since)


async def history(workers: Workers, since: Position = START, topic: str = "a") -> list[str]:
    past = await workers.brokers[-1].history(topic, since)
    return [payload.decode() for payload in past.payloads]


def test_who_comes_back_gets_what_was_missed_and_then_what_follows(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            first, second = workers.hubs
            listener = await listen(first, "a")
            await publish(second, "one", "two", 'thr"e\n grüße')
            kept = await read_kept(listener, 3)
            assert [message.text for message in kept] == ["one", "two", 'thr"e\n grüße']
            assert [message.at.offset for message in kept] == [1, 2, 3]
            back, complete = await resume(second, kept[0].at)
            assert complete
            await publish(first, "four")
            assert await read_kept(back, 3) == [*kept[1:], Kept(Position(kept[0].at.epoch, 4), "four")]
            everything, complete = await resume(second, START)
            assert complete
            assert len(await read_kept(everything, 4)) == 4
            _, complete = await resume(second, Position("1", 1))
            assert not complete
            _, complete = await resume(second, UNKNOWN)
            assert not complete

    run(test)


def test_excluded_subscriber_is_left_out_of_a_kept_message(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            own, far = [await listen(hub, "a") for hub in workers.hubs]
            await workers.hubs[0].publish(Message("a", "not for own", own, KEEP))
            await publish(workers.hubs[0], "for all")
            assert [message.text for message in await read_kept(own, 1)] == ["for all"]
            assert [message.text for message in await read_kept(far, 2)] == ["not for own", "for all"]

    run(test)


@pytest.mark.slow
def test_messages_leave_by_count_and_by_age_and_the_stream_with_the_last(redis: RedisServer) -> None:
    async def test() -> None:
        client = redis.client()
        async with workers_of(redis.url, 1) as workers:
            hub = workers.hubs[0]
            listener = await listen(hub, "a")
            await publish(hub, *map(str, range(150)))
            assert await history(workers) == [str(number) for number in range(50, 150)]
            await publish(hub, *map(str, range(150, 153)), keep=Keep(3, 1))
            assert await history(workers) == ["150", "151", "152"]
            kept = await read_kept(listener, 153)
            _, complete = await resume(hub, kept[149].at)
            assert complete
            _, complete = await resume(hub, kept[148].at)
            assert not complete
            past = await workers.brokers[0].history("a", kept[151].at)
            assert (past.top, past.first, past.payloads, past.complete) == (153, 153, [b"152"], True)
            await until(lambda: not client.exists("asgiws:a"))
            assert await history(workers) == []
            await publish(hub, "new")
            (new,) = await read_kept(listener, 1)
            assert (new.at.offset, new.text) == (1, "new")
            assert new.at.epoch != kept[0].at.epoch
            _, complete = await resume(hub, kept[-1].at)
            assert not complete

    run(test)


@pytest.mark.slow
def test_old_messages_of_a_busy_topic_expire(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 1) as workers:
            hub = workers.hubs[0]
            await publish(hub, "oldest", "old", keep=Keep(100, 1))
            await publish(hub, "kept")
            while await history(workers) != ["kept"]:  # noqa: ASYNC110 - the clock is that of Redis
                await asyncio.sleep(0.01)
            await publish(hub, "new")
            past = await workers.brokers[0].history("a", START)
            assert (past.first, past.payloads) == (3, [b"kept", b"new"])
            assert redis.client().xlen("asgiws:a") == 2

    run(test)


def test_what_is_read_at_once_is_bounded_and_pages_join(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 1) as workers:
            hub = workers.hubs[0]
            texts = [f"{number}:" + "x" * 10 * KIB for number in range(100)]
            await publish(hub, *texts)
            assert 1 < len(await history(workers)) < 30
            listener, complete = await resume(hub, START)
            assert complete
            assert [message.text for message in await read_kept(listener, 100)] == texts

    run(test)


def test_a_script_that_redis_forgot_is_sent_again(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 1) as workers:
            await publish(workers.hubs[0], "one")
            redis.client().script_flush()
            await publish(workers.hubs[0], "two")
            redis.client().script_flush()
            assert await history(workers) == ["one", "two"]

    run(test)


@pytest.mark.slow
def test_a_gap_is_filled_and_nobody_is_closed(redis: RedisServer) -> None:
    async def test() -> None:
        client = redis.client()
        async with workers_of(redis.url, 1) as workers:
            hub = workers.hubs[0]
            publisher = await workers.add()
            quiet = await listen(hub, "quiet")
            await publisher.publish(Message("quiet", "kept before anybody listened", keep=KEEP))
            await read(quiet, 1)
            listener = await listen(hub, "a")
            await publish(publisher, "one", "two")
            await read_kept(listener, 2)
            redis.kill_subscribers()
            # The publisher's connection for commands may live for a moment longer.
            await workers.lost()
            await workers.connected()
            await publish(publisher, *map(str, range(300)))
            assert [message.text for message in await read_kept(listener, 300)] == [str(n) for n in range(300)]
            assert hub.recovery.gaps == hub.recovery.filled == 2
            client.publish("asgiws:a", "a stranger's, which nobody keeps")
            assert await read(listener, 1) == ["a stranger's, which nobody keeps"]
            redis.kill_subscribers()
            await workers.lost(2)
            await workers.connected()
            with pytest.raises(TopicsUnavailable):
                await read(listener, 1)
            await hub.publish(Message("quiet", "still here", keep=KEEP))
            assert "still here" in str(await quiet.next())

    run(test)


@pytest.mark.slow
def test_a_stream_that_was_lost_ends_its_subscribers(redis: RedisServer) -> None:
    async def test() -> None:
        async with workers_of(redis.url, 2) as workers:
            listener = await listen(workers.hubs[0], "a")
            await publish(workers.hubs[1], "one")
            await read_kept(listener, 1)
            redis.kill()
            redis.start()
            await workers.lost()
            await workers.connected()
            with pytest.raises(TopicsUnavailable):
                await read(listener, 1)

    run(test)


@pytest.mark.slow
def test_after_a_failover_nothing_counts_as_complete(tmp_path: Path) -> None:
    """A replica may lack what was published last, and would number on from what it has."""
    with redis_server(tmp_path, "--enable-debug-command", "yes") as redis:

        async def test() -> None:
            async with workers_of(redis.url, 2) as workers:
                first, second = workers.hubs
                listener = await listen(first, "a")
                await publish(second, "one", "two")
                kept = await read_kept(listener, 2)
                redis.client().execute_command("DEBUG", "CHANGE-REPL-ID")  # type: ignore[no-untyped-call]
                redis.kill_subscribers()
                await workers.lost()
                await workers.connected()
                with pytest.raises(TopicsUnavailable):
                    await read(listener, 1)
                _, complete = await resume(second, kept[1].at)
                assert not complete
                listener = await listen(first, "a")
                await publish(second, "three")
                (new,) = await read_kept(listener, 1)
                assert new.at.offset == 1
                assert int(new.at.epoch) > int(kept[0].at.epoch)
                back, complete = await resume(second, kept[1].at)
                assert not complete
                assert await read_kept(back, 1) == [new]
                back, complete = await resume(second, new.at)
                assert complete

        run(test)


class Client:
    """A client that comes back with its last position whenever it is closed."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.numbers: list[int] = []
        self.incomplete = 0

    async def follow(self) -> None:
        at = START
        while True:
            listener = Listener(100_000)
            try:
                self.incomplete += not await self._hub.resume("a", listener, at)
                while True:
                    (message,) = await read_kept(listener, 1)
                    at = message.at
                    self.numbers.append(int(message.text))
            except TopicsUnavailable:
                self._hub.unsubscribe("a", listener)
                await asyncio.sleep(0.01)


@pytest.mark.slow
def test_hundred_disconnects_under_publishing_lose_nothing_and_repeat_nothing(redis: RedisServer) -> None:
    rounds, count = 10, 10
    published = 0

    async def publish_all(hub: Hub) -> None:
        nonlocal published
        for number in itertools.count(1):
            while True:
                try:
                    await hub.publish(Message("a", str(number), keep=Keep(10_000, 300)))
                    break
                except TopicsUnavailable:  # it may be published all the same
                    await asyncio.sleep(0.01)
            published = number
            await asyncio.sleep(0.002)

    async def test() -> None:
        async with workers_of(redis.url, count + 1) as workers:
            clients = [Client(hub) for hub in workers.hubs[:count]]
            async with asyncio.TaskGroup() as tasks:
                working = [tasks.create_task(work) for work in (publish_all(workers.hubs[-1]),
                                                                *(client.follow() for client in clients))]  # fmt: skip
                for number in range(1, rounds + 1):
                    reached = published
                    await until(lambda: all(each.numbers and each.numbers[-1] > reached for each in clients))  # noqa: B023
                    redis.kill_subscribers()
                    await workers.lost(number)
                    await workers.connected()
                reached = published
                await until(lambda: all(each.numbers[-1] > reached for each in clients))
                for task in working:
                    task.cancel()
            for client in clients:
                assert client.incomplete == 0
                shared = client.numbers[: len(clients[0].numbers)]
                assert shared == clients[0].numbers[: len(shared)]
                assert sorted(set(shared)) == list(range(1, shared[-1] + 1))

    run(test, patience_s=10 * PATIENCE_S)
