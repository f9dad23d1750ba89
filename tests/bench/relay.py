"""`python -m tests.bench.relay`: how many messages a second the relay carries from one worker to three others.

The relay and its four workers are processes of their own, as under a supervisor, without sockets of clients: the time
is that of the relay and of the two ends of its connections.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import socket
import time
from multiprocessing.connection import Connection
from typing import Final

import uvloop

from asgiws.topics.hub import Hub
from asgiws.topics.listener import Listener
from asgiws.topics.message import Message
from asgiws.topics.relay import Relay
from asgiws.topics.relay_client import RelayClient
from tests.bench.run import say

TOPIC: Final = "prices"
SUBSCRIBERS: Final = 3
_SPAWN: Final = multiprocessing.get_context("spawn")


async def publish(relay: socket.socket, orders: Connection, count: int, size: int, publishers: int) -> None:
    """Publish `count` messages from so many tasks at a time, once it is ordered."""
    hub = Hub(asyncio.get_running_loop())
    await RelayClient.connect(relay, hub)
    await asyncio.to_thread(orders.recv)
    orders.send(time.monotonic())

    async def part() -> None:
        for _ in range(count // publishers):
            await hub.publish(Message(TOPIC, "x" * size))

    await asyncio.gather(*(part() for _ in range(publishers)))
    await asyncio.to_thread(orders.recv)


async def listen(relay: socket.socket, orders: Connection, count: int) -> None:
    """Receive `count` messages."""
    hub = Hub(asyncio.get_running_loop())
    await RelayClient.connect(relay, hub)
    listener = Listener(count)
    await hub.subscribe(TOPIC, listener)
    orders.send("subscribed")
    for _ in range(count):
        await listener.next()
    orders.send(time.monotonic())


def run_worker(relay: socket.socket, orders: Connection, count: int, size: int, publishers: int) -> None:
    """Be one worker: the one that publishes where `publishers` is not 0."""
    uvloop.run(publish(relay, orders, count, size, publishers) if publishers else listen(relay, orders, count))


async def measure(count: int, size: int, publishers: int) -> float:
    """Return the messages a second until the last worker has the last message."""
    relay, processes, orders = Relay(8 * 1024 * 1024), [], []
    for number in range(SUBSCRIBERS + 1):
        ours, theirs = socket.socketpair()
        mine, its = _SPAWN.Pipe()
        arguments = (theirs, its, count, size, 0 if number else publishers)
        processes.append(_SPAWN.Process(target=run_worker, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()
        orders.append(mine)
        await relay.connect(ours)
    publisher, *listeners = orders
    for listener in listeners:
        await asyncio.to_thread(listener.recv)
    publisher.send("go")
    began_s: float = await asyncio.to_thread(publisher.recv)
    ended_s: list[float] = [await asyncio.to_thread(listener.recv) for listener in listeners]
    publisher.send("end")
    for process in processes:
        await asyncio.to_thread(process.join)
    assert relay.gaps == 0
    return count / (max(ended_s) - began_s)


def main(arguments: list[str] | None = None) -> None:
    """Print the rate of each round."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.relay", description=__doc__)
    parser.add_argument("--messages", type=int, default=60_000)
    parser.add_argument("--size", type=int, default=100, help="bytes of a message")
    parser.add_argument("--publishers", type=int, default=60, help="tasks that publish at a time")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    options.messages -= options.messages % options.publishers
    for _ in range(options.rounds):
        rate = uvloop.run(measure(options.messages, options.size, options.publishers))
        say(f"{rate:,.0f} messages of {options.size} B a second to {SUBSCRIBERS} other workers")


if __name__ == "__main__":
    main()
