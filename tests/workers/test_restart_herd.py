"""Rolling restarts with hundreds of clients: each WebSocket is closed once a restart, and no request is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import pytest

from tests import PATIENCE_S
from tests.raw import close, handshake
from tests.server_process import ServerProcess, Start
from tests.workers.crew import WHOAMI

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Herd:
    """Clients that run in one thread until they are told to end; what a client raises is a failure."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self.ended = False
        self.ready: set[object] = set()
        """Clients that were served."""
        self._ready = threading.Barrier(2)
        self._thread: threading.Thread

    def start(self, *clients: Coroutine[Any, Any, None]) -> None:
        """Run the clients, and wait until each has been served for the first time."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(clients)))
        self._thread.start()
        self._ready.wait(4 * PATIENCE_S)

    def end(self) -> None:
        """Let each client finish what it is doing."""
        self.ended = True
        self._thread.join(4 * PATIENCE_S)
        assert not self._thread.is_alive()

    async def _run(self, clients: tuple[Coroutine[Any, Any, None], ...]) -> None:
        tasks = [asyncio.create_task(self._watch(client)) for client in clients]
        while len(self.ready) < len(clients) and not self.failures:
            await asyncio.wait(tasks, timeout=0.05)
        self._ready.wait()
        await asyncio.gather(*tasks)

    async def _watch(self, client: Coroutine[Any, Any, None]) -> None:
        try:
            await client
        except (OSError, EOFError, AssertionError, ValueError) as error:
            self.failures.append(repr(error))

    async def websocket(self) -> None:
        """Stay connected, and connect again after each Close 1012."""
        while not self.ended:
            async with self._connect() as (reader, writer):
                writer.write(handshake())
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
                self.ready.add(asyncio.current_task())
                while (first := (await reader.readexactly(1))[0]) != 0x88:
                    assert first == 0x81
                    await reader.readexactly((await reader.readexactly(1))[0])
                assert await reader.readexactly(18) == b"\x11\x03\xf4service restart"
                writer.write(close(1012))
            self.counts["closed"] += 1

    async def kept_alive(self, pause_s: float) -> None:
        """Ask again and again on one connection, until an answer says that it is the last."""
        while not self.ended:
            async with self._connect() as (reader, writer):
                kept = True
                while kept and not self.ended:
                    writer.write(GET)
                    head = (await reader.readuntil(b"\r\n\r\n")).lower()
                    assert head.startswith(b"http/1.1 200 ")
                    fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
                    await reader.readexactly(int(fields[b"content-length"]))
                    kept = fields.get(b"connection") != b"close"
                    self.counts["answers" if kept else "last answers"] += 1
                    self.ready.add(asyncio.current_task())
                    await asyncio.sleep(pause_s if kept else 0)

    @contextlib.asynccontextmanager
    async def _connect(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()


def finish_restart(process: ServerProcess, count: int) -> None:
    """Wait until all old workers have exited."""
    for _ in range(count):
        process.wait_stderr("has exited: exit code 0")
    process.wait_stderr("rolling restart done")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 4])
def test_websockets_are_closed_once_a_restart(start: Start, workers: int) -> None:
    """Those that come back reach a worker that stays: five restarts close 500 clients 2,500 times, and not more."""
    clients, restarts = 500, 5
    process = start(
        WHOAMI, "--workers", str(workers), "--no-access-log", "--drain-spread", "0.2", "--ping-interval", "0"
    )
    herd = Herd(process.port)
    herd.start(*(herd.websocket() for _ in range(clients)))
    for _ in range(restarts):
        process.signal(signal.SIGHUP)
        finish_restart(process, workers)
    herd.ended = True
    closed = herd.counts["closed"]
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    herd.end()
    assert herd.failures == []
    assert closed == clients * restarts


@pytest.mark.slow
def test_kept_connections_lose_no_request_whenever_a_restart_comes(start: Start) -> None:
    """A connection that was used a moment ago is served until an answer says that it is the last.

    The signals come at ten phases of a second, because deadlines are counted in ticks of a second.
    """
    process = start(WHOAMI, "--workers", "2", "--no-access-log")
    herd = Herd(process.port)
    herd.start(*(herd.kept_alive(0.05 + 0.005 * number) for number in range(100)))
    began_s = time.monotonic()
    for phase in range(10):
        at_s = began_s + int(time.monotonic() - began_s) + 2 + phase / 10
        while (left_s := at_s - time.monotonic()) > 0:
            threading.Event().wait(left_s)  # the moment of the signal is what the test is about
        process.signal(signal.SIGHUP)
        finish_restart(process, 2)
    herd.end()
    assert herd.failures == []
    assert herd.counts["last answers"] >= 100


@pytest.mark.slow
def test_workers_that_are_due_together_are_recycled_apart(start: Start) -> None:
    """Else the clients of one would come back to another that is about to go."""
    process = start(WHOAMI, "--workers", "3", "--worker-lifetime", "1.5", "--no-access-log", "--ping-interval", "0")
    herd = Herd(process.port)
    herd.start(*(herd.websocket() for _ in range(30)))
    gone_s: list[float] = []
    for _ in range(3):
        process.wait_stderr("has exited: exit code 0")
        gone_s.append(time.monotonic())
    assert len(set(re.findall(r"worker (\d) .*served for its time", "\n".join(process.stderr)))) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(gone_s)) > 1
    herd.ended = True
    process.signal(signal.SIGTERM)
    assert process.wait() == 0
    herd.end()
    assert herd.failures == []
