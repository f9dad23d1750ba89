"""What an idle connection costs, counted in a real process with 10,000 of them."""

from __future__ import annotations

import sys
import weakref
from pathlib import Path

import pytest

from asgiws.server.asgi import Scope
from asgiws.server.memory import CONNECTION_BYTES
from tests.apps import Receive, Send
from tests.conftest import Serve
from tests.limits.idle_account import BROWSER_OFFER, account
from tests.raw import RawClient, handshake, text
from tests.server_process import ServerProcess, Start

COUNT = 10_000
# The transports of asyncio hold a deque of 0.7 KiB, and more else, since Python 3.13.
MOST_BYTES = CONNECTION_BYTES if sys.version_info < (3, 13) else CONNECTION_BYTES * 15 // 13


def proportional_set_bytes(process: ServerProcess) -> int:
    """Resident memory, with what is shared divided among those who share it."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024


def cost_of_one(start: Start, *headers: str) -> tuple[float, float]:
    """Bytes for each idle connection, before and after it has echoed one message."""
    process = start("tests.apps:echo", "--no-access-log", "--ping-interval", "0")
    clients: list[RawClient] = []
    try:
        for _ in range(50):
            clients.append(RawClient(process.port))
            clients[-1].open_websocket("/", *headers)
        before = proportional_set_bytes(process)
        measured = []
        for _ in range(COUNT):
            client = RawClient(process.port)
            client.open_websocket("/", *headers)
            clients.append(client)
            measured.append(client)
        idle = proportional_set_bytes(process)
        for client in measured:
            client.send(text("hello"))
            assert client.read_text() == "hello"
        after = proportional_set_bytes(process)
        return (idle - before) / COUNT, (after - before) / COUNT
    finally:
        for client in clients:
            client.socket.close()


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
@pytest.mark.promise
def test_idle_connections_cost_at_most_6_5_kib_and_compression_nothing(start: Start) -> None:
    """10,000 connections that negotiated compression and 10,000 that did not: within 5 %, also after an echo."""
    plain, plain_after = cost_of_one(start)
    compressed, compressed_after = cost_of_one(start, BROWSER_OFFER)
    assert max(plain, plain_after, compressed, compressed_after) <= MOST_BYTES
    assert compressed < plain * 1.05
    assert compressed_after < plain_after * 1.05


@pytest.mark.parametrize("headers", [(), (BROWSER_OFFER,)], ids=["plain", "compression"])
@pytest.mark.parametrize("echoes", [False, True], ids=["idle", "echoed"])
def test_objects_of_an_idle_connection_add_up_to_less_than_it_may_cost(
    loop_name: str, headers: tuple[str, ...], echoes: bool
) -> None:
    """What was allocated for each of 200 connections and is still held, without the allocator's rounding.

    `python -m tests.limits.idle_account` lists it.
    """
    rows = account(loop_name, *headers, echoes=echoes)
    assert 3000 < sum(row.size for row in rows) <= MOST_BYTES * 0.9, rows


class Mark:
    """Something in a scope that a weak reference can watch."""


@pytest.mark.parametrize("kind", ["websocket", "http"])
def test_scope_is_gone_once_the_application_lets_go_of_it(serve: Serve, kind: str) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mark = scope["mark"] = Mark()
        watch = weakref.ref(mark)
        del scope, mark
        await receive()
        left = b"gone" if watch() is None else b"held"
        if kind == "websocket":
            await send({"type": "websocket.accept", "headers": [(b"x-scope", left)]})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"x-scope", left)]})
            await send({"type": "http.response.body"})

    with RawClient(serve(app).port) as client:
        client.send(handshake("/") if kind == "websocket" else b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_answer().header(b"x-scope") == b"gone"
