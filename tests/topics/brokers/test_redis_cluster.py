"""Topics over a Redis Cluster of three servers, with sharded publish and subscribe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from asgiws.topics.history import START, Keep
from asgiws.topics.message import Message, TopicsUnavailable
from tests.admin.helpers import wait_until
from tests.programs import reserved_port
from tests.redis_server import RedisServer
from tests.topics.brokers.machines import listen, read, run, until, workers_of

SLOTS = 16384
TOPICS = [f"room:{number}" for number in range(50)]

pytestmark = pytest.mark.slow


class Cluster:
    """Three servers that share the slots evenly."""

    def __init__(self, folder: Path, ports: list[int]) -> None:
        self.nodes: list[RedisServer] = []
        self._folder = folder
        self.ports, self._buses = ports[:3], ports[3:]

    def start(self) -> None:
        """Start the servers, and wait until they know each other."""
        for number, (port, bus) in enumerate(zip(self.ports, self._buses, strict=True)):
            path = self._folder / str(number)
            path.mkdir()
            options = f"--cluster-enabled yes --port {port} --cluster-port {bus} --bind 127.0.0.1"
            self.nodes.append(RedisServer(path, *options.split()))
            first, end = (SLOTS * place // 3 for place in (number, number + 1))
            self.command(number, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            self.command(number, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            if number:
                self.command(0, "CLUSTER", "MEET", "127.0.0.1", port, bus)
        wait_until(lambda: all(self.is_whole(number) for number in range(3)))

    @property
    def url(self) -> str:
        return f"redis+cluster://127.0.0.1:{self.ports[0]}"

    def command(self, number: int, *words: object) -> object:
        """Send a command to one server; return the reply."""
        found: object = self.nodes[number].client().execute_command(*words)  # type: ignore[no-untyped-call]
        return found

    def is_whole(self, number: int) -> bool:
        info = self.command(number, "CLUSTER", "INFO")
        assert isinstance(info, bytes)
        return b"cluster_state:ok" in info and b"cluster_known_nodes:3" in info

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    pytest.importorskip("redis")
    with contextlib.ExitStack() as reserved:
        ports = [reserved.enter_context(reserved_port()) for _ in range(6)]
        made = Cluster(tmp_path, ports)
        try:
            made.start()
            yield made
        finally:
            made.close()


def test_topics_of_all_servers_and_a_slot_that_moves(cluster: Cluster) -> None:
    async def test() -> None:
        async with workers_of(cluster.url, 2) as workers:
            first, second = workers.hubs
            listeners = [await listen(hub, topic) for hub in (first, second) for topic in TOPICS]
            for topic in TOPICS:
                await first.publish(Message(topic, topic))
            assert [await read(listener, 1) for listener in listeners] == [[topic] for topic in TOPICS] * 2
            kept = [await listen(hub, "kept") for hub in (first, second)]
            await first.publish(Message("kept", "one", keep=Keep(10, 60)))
            texts = [await read(listener, 1) for listener in kept]
            assert texts[0] == texts[1]
            assert (await workers.brokers[1].history("kept", START)).payloads == [b"one"]
            subscribed = [cluster.command(number, "PUBSUB", "SHARDCHANNELS", "asgiws:room:*") for number in range(3)]
            assert all(subscribed)

            slot = cluster.command(0, "CLUSTER", "KEYSLOT", "asgiws:room:7")
            owner = cluster.command(2 if slot < SLOTS * 2 // 3 else 0, "CLUSTER", "MYID")  # type: ignore[operator]
            for number in range(3):
                cluster.command(number, "CLUSTER", "SETSLOT", slot, "NODE", owner)
            await workers.lost()
            await workers.connected()
            with pytest.raises(TopicsUnavailable):
                await read(listeners[7], 1)
            again = await listen(second, "room:7")
            await first.publish(Message("room:7", "from its new server"))
            assert await read(again, 1) == ["from its new server"]

            cluster.nodes[1].kill()
            await until(lambda: all(broker.state == "deaf" for broker in workers.brokers))
            with pytest.raises(TopicsUnavailable):
                await first.publish(Message("room:7", "lost"))
            cluster.nodes[1].start()
            await workers.connected()
            again = await listen(second, "room:8")
            await first.publish(Message("room:8", "whole again"))
            assert await read(again, 1) == ["whole again"]

    run(test)
