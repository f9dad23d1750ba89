"""What an idle connection costs, counted in a real process with thousands of them, and object by object."""

from __future__ import annotations

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

WARM_COUNT = 200
COUNT = 2600
"""Tables of Python that have an entry for each connection have just grown: one takes most with 700, 2,800, 11,200."""
OBJECTS_MOST_BYTES = CONNECTION_BYTES * 0.93
"""The rest is what the allocator rounds up, and what those tables have free."""


def proportional_set_bytes(process: ServerProcess) -> int:
    """Resident memory, with what is shared divided among those who share it."""
    rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) * 1024


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
@pytest.mark.promise
def test_idle_connection_costs_at_most_6_5_kib(start: Start) -> None:
    """As a browser opens it, with compression, and after a message was echoed, which keeps most."""
    process = start("tests.apps:echo", "--no-access-log", "--ping-interval", "0")
    clients: list[RawClient] = []

    def open_and_echo(count: int) -> int:
        for _ in range(count):
            clients.append(RawClient(process.port))
            clients[-1].open_websocket("/", BROWSER_OFFER)
        for client in clients[-count:]:
            client.send(text("hello"))
            assert client.read_text() == "hello"
        return proportional_set_bytes(process)

    try:
        before = open_and_echo(WARM_COUNT)
        assert 3000 < (open_and_echo(COUNT) - before) / COUNT <= CONNECTION_BYTES
    finally:
        for client in clients:
            client.socket.close()


def test_objects_of_an_idle_connection_fit_and_compression_adds_none(loop_name: str) -> None:
    """What was allocated for each of 200 connections and is still held.

    `python -m tests.limits.idle_account` lists it.
    """
    plain, compressed = account(loop_name), account(loop_name, BROWSER_OFFER)
    for rows in (plain.idle, plain.echoed, compressed.idle, compressed.echoed):
        assert 3000 < sum(row.size for row in rows) <= OBJECTS_MOST_BYTES, rows
    assert sum(row.size for row in compressed.echoed) < sum(row.size for row in plain.echoed) * 1.01


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
