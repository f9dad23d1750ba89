"""History with workers: clients that come back through rolling restarts miss nothing and get nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests import PATIENCE_S
from tests.admin.helpers import Admin, wait_until
from tests.raw import RawClient, text
from tests.server_process import ServerProcess, Start, assert_no_traceback
from tests.workers.crew import restart

APP = "tests.workers.history_app:app"
NO_PINGS = ("--ping-interval", "0", "--workers", "2")
CLIENTS = 200
RESTARTS = 5
PAUSE_S = 0.02
"""Between two messages: 200 clients have to read each of them, on the machine that serves."""


class Reader:
    """A client that comes back with its last position whenever it was closed."""

    def __init__(self) -> None:
        self.at = ""
        self.got: list[str] = []
        self.unrecovered = 0
        self.connections = 0

    async def read_until(self, url: str, last: str) -> None:
        while not self.got or self.got[-1] != last:
            with suppress(ConnectionClosed, InvalidHandshake, OSError):
                async with connect(
                    f"{url}?since={self.at}", proxy=None, ping_interval=None, compression=None
                ) as socket:
                    self.connections += 1
                    async for received in socket:
                        self.take(str(received))
                        if self.got and self.got[-1] == last:
                            break

    def take(self, received: str) -> None:
        if received.startswith("recovered "):
            self.unrecovered += not received.startswith("recovered True")
        else:
            message = json.loads(received)
            self.at = message["at"]
            self.got.append(message["data"])


async def publish(port: int, message: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /room HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {len(message)}\r\n\r\n"
    writer.write((head + message).encode())
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()


@pytest.mark.slow
@pytest.mark.parametrize("loop_name", ["asyncio"])
def test_200_clients_come_back_through_five_rolling_restarts_and_miss_nothing(start: Start) -> None:
    process = start(APP, *NO_PINGS, "--drain-spread", "0.5", "--compression", "off")
    readers = [Reader() for _ in range(CLIENTS)]
    published: list[str] = []

    async def publish_through_restarts() -> None:
        restarting = asyncio.create_task(asyncio.to_thread(restart_often, process))
        while not restarting.done():
            published.append(str(len(published)))
            await publish(process.port, published[-1])
            await asyncio.sleep(PAUSE_S)
        await restarting
        await publish(process.port, "last")

    async def test() -> None:
        url = f"ws://127.0.0.1:{process.port}/room"
        async with asyncio.timeout(2 * RESTARTS * PATIENCE_S):
            await asyncio.gather(publish_through_restarts(), *(reader.read_until(url, "last") for reader in readers))

    asyncio.run(test())
    assert len(published) > 10 * RESTARTS
    for reader in readers:
        assert reader.got == [*published, "last"]
        assert reader.unrecovered == 0
    assert sum(reader.connections for reader in readers) > RESTARTS * CLIENTS
    process.terminate()
    assert process.wait() == 0
    assert_no_traceback(process)


def restart_often(process: ServerProcess) -> None:
    for _ in range(RESTARTS):
        restart(process, 2)
        process.wait_stderr("rolling restart done")


class Member(RawClient):
    """A client that remembers its position."""

    def __init__(self, port: int, reader: Reader | None = None) -> None:
        super().__init__(port)
        self.reader = Reader() if reader is None else reader
        self.open_websocket(f"/room?since={self.reader.at}")
        while not (received := self.read_text()).startswith("recovered "):
            self.reader.take(received)
        self.reader.take(received)
        self.pid = int(received.rpartition(" ")[2])

    def texts_until(self, last: str) -> list[str]:
        while self.reader.got[-1:] != [last]:
            self.reader.take(self.read_text())
        return self.reader.got


@pytest.fixture
def members() -> Iterator[list[Member]]:
    """Clients that are closed with the test."""
    opened: list[Member] = []
    yield opened
    for member in opened:
        member.socket.close()


def one_of_each_worker(process: ServerProcess, members: list[Member]) -> tuple[Member, Member]:
    """Open clients until each of two workers has one."""
    while len(found := {member.pid: member for member in members}) < 2:
        members.append(Member(process.port))
    first, second = found.values()
    return first, second


def test_a_worker_that_was_stopped_fills_its_gap(start: Start, members: list[Member]) -> None:
    """Far more than may wait for it is published meanwhile; its clients get all of it, and no Close."""
    process = start(
        APP, *NO_PINGS, "--worker-timeout", "0", "--topic-queue", "256KiB", "--topic-backlog", "20MiB",
        "--admin", "127.0.0.1:0",
    )  # fmt: skip
    stopped, publisher = one_of_each_worker(process, members)
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        publisher.send(text("stream:300:20000"))
        publisher.send(text("last"))
        expected = publisher.texts_until("last")
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert len(expected) == 301
    assert stopped.texts_until("last") == expected
    samples = Admin(process).samples()
    assert samples["asgiws_topic_history_bytes", ()] > 300 * 20_000
    wait_until(lambda: Admin(process).samples()["asgiws_topic_gaps_filled_total", ()] == 1)


def test_clients_of_a_killed_worker_come_back_to_another_and_are_counted_again(
    start: Start, members: list[Member]
) -> None:
    process = start(APP, *NO_PINGS)
    dies, stays = one_of_each_worker(process, members)
    stays.send(text("before"))
    assert dies.texts_until("before") == stays.texts_until("before")
    os.kill(dies.pid, signal.SIGKILL)
    stays.send(text("meanwhile"))
    expected = stays.texts_until("meanwhile")
    back = Member(process.port, dies.reader)
    members.append(back)
    assert back.texts_until("meanwhile") == expected == ["before", "meanwhile"]
    assert back.reader.unrecovered == 0
    alive = sum(member.pid != dies.pid for member in members)
    stays.send(text("count"))
    while stays.read_text() != f"count {alive}":  # another worker reports once a second
        stays.send(text("count"))
