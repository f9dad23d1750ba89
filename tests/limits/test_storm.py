"""A thousand clients that come at once: nobody is refused while there is room, and open sockets are served in between.

Counted in turns of the event loop: all handshakes wait in the kernel before the loop sees the first one, so a machine
that is busy changes nothing. Times are measured by `tests/bench/storm.py`.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from asgiws.server.asgi import Scope
from tests import PATIENCE_S
from tests.apps import Receive, Send, accept
from tests.conftest import RunningServer, Serve
from tests.raw import RawClient, handshake, text

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("many_files")]

COUNT = 1000
BATCH = 64
"""Connections that the server accepts in a turn, and applications that it ends."""


class Lookup:
    """An application that looks something up before it accepts, and counts what begins and ends in each turn."""

    def __init__(self, lets_in: int) -> None:
        """Accept when so many handshakes have come."""
        self._lets_in = lets_in
        self.turn = 0
        self.started: Counter[int] = Counter()
        self.opening = self.most_opening = 0
        self.opened_before_echo = -1
        self.ended: Counter[int] = Counter()
        self._may_accept = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/stay":
            await self._stay(scope, receive, send)
            return
        self.started[self.turn] += 1
        self.opening += 1
        self.most_opening = max(self.opening, self.most_opening)
        if self.started.total() == self._lets_in:
            self._may_accept.set()
        await self._may_accept.wait()
        self.opening -= 1
        await accept(scope, receive, send)
        await receive()
        self.ended[self.turn] += 1

    async def _stay(self, scope: Scope, receive: Receive, send: Send) -> None:
        await accept(scope, receive, send)
        counting = asyncio.create_task(self._count_turns())
        try:
            while (event := await receive())["type"] == "websocket.receive":
                self.opened_before_echo = self.started.total()
                await send({"type": "websocket.send", "text": event["text"]})
        finally:
            counting.cancel()

    async def _count_turns(self) -> None:
        while True:
            self.turn += 1
            await asyncio.sleep(0)


@contextmanager
def held(server: RunningServer) -> Iterator[None]:
    """Hold the event loop of a server while the context lasts."""
    holds, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        holds.set()
        go_on.wait(PATIENCE_S)

    server.loop.call_soon_threadsafe(hold)
    assert holds.wait(PATIENCE_S)
    try:
        yield
    finally:
        go_on.set()


@pytest.mark.parametrize("max_opening", [0, 500])
def test_storm_refuses_nobody_and_leaves_open_sockets_their_turn(serve: Serve, max_opening: int) -> None:
    """With --max-opening as well, whose places all become free in the same turn here."""
    if int(Path("/proc/sys/net/core/somaxconn").read_text()) < COUNT:
        pytest.skip(f"the kernel has to queue {COUNT} connections (net.core.somaxconn)")
    app = Lookup(max_opening or COUNT)
    server = serve(app, max_opening=max_opening)
    with ExitStack() as stack:
        staying = stack.enter_context(RawClient(server.port))
        staying.open_websocket("/stay")
        with held(server):
            crowd = [stack.enter_context(RawClient(server.port)) for _ in range(COUNT)]
            for client in crowd:
                client.send(handshake())
            staying.send(text("still here"))
        assert staying.read_text() == "still here"
        # What came last of all was answered while nearly all of the others still waited.
        assert 0 <= app.opened_before_echo <= BATCH
        assert {client.read_answer().status for client in crowd} == {101}
        assert app.most_opening == (max_opening or COUNT)
        assert max(app.started.values()) <= 2 * BATCH
        staying.send(text("and now"))
        assert staying.read_text() == "and now"
        assert server.call(lambda: server.server.counters.websockets_accepted) == COUNT + 1
        assert server.call(lambda: server.server.counters.rejections) == {}


def test_connections_that_are_lost_together_leave_open_sockets_their_turn(serve: Serve) -> None:
    """As when a balancer dies: their applications end a few in a turn, and the open socket is served in between."""
    app = Lookup(COUNT)
    server = serve(app)
    with RawClient(server.port) as staying, ExitStack() as stack:
        staying.open_websocket("/stay")
        crowd = [stack.enter_context(RawClient(server.port)) for _ in range(COUNT)]
        for client in crowd:
            client.send(handshake())
        assert {client.read_answer().status for client in crowd} == {101}
        with held(server):
            for client in crowd:
                client.reset()
            staying.send(text("still here"))
        assert staying.read_text() == "still here"
        while server.call(app.ended.total) < COUNT:
            pass
        assert max(app.ended.values()) <= 2 * BATCH
        assert server.server.connection_count == 1
