"""Closing many WebSockets by path, client and share, spread over time, in one process and with workers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from asgiws.admin.source import OneServer
from asgiws.config.options import Config
from asgiws.server.bulk_close import BulkClose
from asgiws.workers.supervisor import Supervisor
from tests import PATIENCE_S
from tests.apps import echo
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, text
from tests.workers.crew import WHOAMI, ask, open_socket


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Clients that end with the test."""
    with ExitStack() as clients:
        yield clients


def connect(server: RunningServer, stack: ExitStack, path: str = "/", source: str = "127.0.0.1") -> RawClient:
    client = stack.enter_context(RawClient(server.port, source=source))
    client.open_websocket(path)
    return client


def close_websockets(server: RunningServer, **order: Any) -> int:
    return int(server.call(lambda: server.server.close_websockets(BulkClose(**order))))


def serves(client: RawClient) -> bool:
    """Whether an echo comes back, and not a Close."""
    client.send(text("there?"))
    return client.read_frame() == (0x81, b"there?")


def arrivals(clients: list[RawClient]) -> list[float]:
    """Seconds after which each client has something to read."""
    began_s = time.monotonic()
    waiting = [client.socket for client in clients]
    seen: list[float] = []
    while waiting:
        readable, _, _ = select.select(waiting, [], [], PATIENCE_S)
        assert readable, f"{len(waiting)} were not closed"
        seen += [time.monotonic() - began_s] * len(readable)
        waiting = [each for each in waiting if each not in readable]
    return seen


# ---- which


def test_all_websockets_are_closed_with_the_code_and_reason_of_the_order(serve: Serve, stack: ExitStack) -> None:
    server = serve(echo)
    clients = [connect(server, stack) for _ in range(3)]
    assert close_websockets(server, code=4001, reason="moved") == 3
    for client in clients:
        client.be_closed(4001, "moved")


@pytest.mark.parametrize(("path", "closed"), [
    ("/chat", {"/chat"}),
    ("/chat*", {"/chat", "/chat/1", "/chatter"}),
    ("/chat/*", {"/chat/1"}),
    ("*", {"/", "/chat", "/chat/1", "/chatter"}),
])  # fmt: skip
def test_path_is_exact_or_the_start_of_one(serve: Serve, stack: ExitStack, path: str, closed: set[str]) -> None:
    """The query is no part of it: it carries tokens."""
    server = serve(echo)
    clients = {each: connect(server, stack, f"{each}?token=secret") for each in ("/", "/chat", "/chat/1", "/chatter")}
    assert close_websockets(server, path=path) == len(closed)
    for each in closed:
        clients.pop(each).be_closed(1012, "service restart")
    for client in clients.values():
        assert serves(client)


@pytest.mark.parametrize("client", ["127.0.0.2", "127.0.0.2/31", "192.0.2.1, 127.0.0.2"])
def test_client_is_an_address_or_a_network(serve: Serve, stack: ExitStack, client: str) -> None:
    server = serve(echo)
    other = connect(server, stack, source="127.0.0.1")
    chosen = connect(server, stack, source="127.0.0.2")
    assert close_websockets(server, client=client) == 1
    chosen.be_closed(1012, "service restart")
    assert serves(other)


def test_client_of_a_unix_socket_is_unix(serve: Serve, stack: ExitStack, tmp_path: object) -> None:
    path = f"{tmp_path}/app.sock"
    server = serve(echo, uds=path)
    client = stack.enter_context(RawClient.unix(path))
    client.open_websocket()
    assert close_websockets(server, client="127.0.0.1") == 0
    assert close_websockets(server, client="unix") == 1
    client.be_closed(1012, "service restart")


def test_percent_is_the_share_of_those_that_match(serve: Serve, stack: ExitStack) -> None:
    server = serve(echo)
    matching = [connect(server, stack, "/chat") for _ in range(10)]
    others = [connect(server, stack, "/") for _ in range(5)]
    assert close_websockets(server, path="/chat", percent=20) == 2
    assert [serves(client) for client in matching].count(False) == 2
    assert all(serves(client) for client in others)


def test_share_that_is_not_whole_is_rounded_by_chance(serve: Serve, stack: ExitStack) -> None:
    """One percent of one WebSocket in each of many workers is neither none of all nor all."""
    server = serve(echo)
    connect(server, stack)
    counts: list[int] = []
    while len(set(counts)) < 2 and len(counts) < 1000:
        counts.append(close_websockets(server, percent=50))
        if counts[-1]:
            connect(server, stack)
    assert set(counts) == {0, 1}


def test_websockets_that_are_closing_are_not_counted(serve: Serve, stack: ExitStack) -> None:
    server = serve(echo)
    connect(server, stack)
    assert close_websockets(server) == 1
    assert close_websockets(server) == 0


# ---- over time


@pytest.mark.slow
def test_closes_are_spread_evenly_over_the_time(serve: Serve, stack: ExitStack) -> None:
    count, over_s = 20, 1.0
    server = serve(echo)
    clients = [connect(server, stack) for _ in range(count)]
    assert close_websockets(server, over_s=over_s) == count
    for place, seen_s in enumerate(arrivals(clients)):
        assert seen_s > over_s * (place - 1) / count - 0.02
    assert not any(serves(client) for client in clients)


def test_stop_does_not_wait_for_the_spread(serve: Serve, stack: ExitStack) -> None:
    server = serve(echo)
    clients = [connect(server, stack) for _ in range(5)]
    assert close_websockets(server, over_s=600) == 5
    server.begin_stop()
    for client in clients:
        client.be_closed(1012, "service restart")
    server.stop()


# ---- what is allowed


@pytest.mark.parametrize(("order", "said"), [
    ({"path": "chat"}, "path 'chat' was given, allowed: a path such as /chat"),
    ({"path": "/a*b"}, "path '/a*b' was given, allowed: a path such as /chat"),
    ({"client": "example.com"}, "client 'example.com' was given, allowed: an address, a network"),
    ({"client": "10.0.0.1/8"}, "allowed: an address without a prefix length, or the whole network 10.0.0.0/8"),
    ({"percent": 0}, "0 percent was given, allowed: 1 to 100"),
    ({"percent": 101}, "101 percent was given, allowed: 1 to 100"),
    ({"over_s": -1}, "a time of -1 s was given, allowed: 0 to 86400 s"),
    ({"over_s": float("nan")}, "a time of nan s was given"),
    ({"code": 1005}, "code 1005 was given, allowed: 1000-1003, 1007-1014, 3000-4999"),
    ({"reason": "x" * 124}, "a reason of 124 bytes was given, allowed: at most 123"),
])  # fmt: skip
def test_order_that_is_not_allowed_says_what_is(order: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        BulkClose(**order)


# ---- draining the process itself


def test_process_that_serves_alone_ends_when_it_is_drained(serve: Serve) -> None:
    """As after `--max-requests`: whatever started it starts the next one."""
    server = serve(echo)
    told: list[str] = []
    server.server.on_due = told.append
    source = OneServer(server.server)
    assert server.wait_for(source.drain_worker(os.getpid() + 1)) is False
    assert server.wait_for(source.drain_worker(os.getpid())) is True
    assert server.wait_for(source.drain_worker(os.getpid())) is False
    assert told == ["drained by the operator"]


# ---- with workers


@contextlib.asynccontextmanager
async def supervised(workers: int) -> AsyncIterator[tuple[Supervisor, int]]:
    """A supervisor on this thread's loop, with its port; ended as by an operator."""
    supervisor = Supervisor(WHOAMI, Config(port=0, workers=workers, access_log=False))
    running = asyncio.create_task(supervisor.run())
    port = int(supervisor.addresses[0].rpartition(":")[2])
    try:
        async with asyncio.timeout(PATIENCE_S):
            while not supervisor.ready:
                await asyncio.to_thread(ask, port)  # one worker serves before all do
        yield supervisor, port
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0


async def close_many(supervisor: Supervisor, pid: int | None = None, **order: Any) -> int:
    values: dict[str, Any] = {"path": "", "client": "", "percent": 100, "over_s": 0, "code": 1012, "reason": "moved"}
    return await supervisor.close_many(pid=pid, **values | order)


@pytest.mark.process
def test_all_workers_close_theirs_and_their_numbers_sum_up(stack: ExitStack) -> None:
    async def check() -> None:
        async with supervised(2) as (supervisor, port):
            opened = [await asyncio.to_thread(open_socket, port) for _ in range(20)]
            clients = {pid: [stack.enter_context(client) for client, its in opened if its == pid] for _, pid in opened}
            assert len(clients) == 2
            first, second = clients
            assert await close_many(supervisor, first, path="/") == len(clients[first])
            for client in clients[first]:
                await asyncio.to_thread(client.be_closed, 1012, "moved")
            assert await close_many(supervisor) == len(clients[second])
            for client in clients[second]:
                await asyncio.to_thread(client.be_closed, 1012, "moved")
            assert await close_many(supervisor) == 0
            with pytest.raises(ValueError, match="percent"):
                await close_many(supervisor, percent=0)

    asyncio.run(check())


@pytest.mark.process
def test_worker_that_an_operator_drains_is_replaced_alone(stack: ExitStack) -> None:
    async def check() -> None:
        async with supervised(2) as (supervisor, port):
            before = {row["pid"] for row in supervisor.status()["workers"]}
            client, pid = await asyncio.to_thread(open_socket, port)
            stack.enter_context(client)
            assert not await supervisor.drain_worker(os.getpid())
            assert await supervisor.drain_worker(pid)
            await asyncio.to_thread(client.be_closed, 1012, "service restart")
            after = {row["pid"] for row in supervisor.status()["workers"] if row["state"] == "serving"}
            assert len(after) == 2
            assert after & before == before - {pid}

    asyncio.run(check())
