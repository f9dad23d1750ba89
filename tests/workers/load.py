"""Clients that do one thing again and again beside a restart, and what became of each."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

from tests.raw import RawClient, close, text
from tests.workers.crew import get

DRAINED = b"\x03\xf4service restart"


class Load:
    """The clients of one server; each runs in a thread of its own."""

    def __init__(self, port: int, connect: Callable[[int], RawClient] = RawClient) -> None:
        self._port = port
        self._connect = connect
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.outcomes: Counter[str] = Counter()
        self.failures: list[str] = []
        self.pids: set[int] = set()

    def begin(self, *works: Callable[[], None]) -> None:
        """Start a client for each work, which is repeated."""
        self._threads = [threading.Thread(target=self._repeat, args=(work,)) for work in works]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Let each client finish what it is at."""
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def assert_restarts_unnoticed(self, restarts: int) -> None:
        """No client has failed across so many restarts, and each kind has met one, or the test says nothing."""
        assert self.failures == []
        assert self.outcomes["echoed"] > restarts
        assert self.outcomes["answered"] > restarts
        assert self.outcomes["told to close"] >= 1

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._ended.is_set():
            try:
                work()
            except (OSError, EOFError, AssertionError, ValueError) as error:
                self.failures.append(f"{work.__name__}: {type(error).__name__} {error}")

    # ---- works

    def websocket(self) -> None:
        """Connect, echo ten messages, and close; a Close 1012 at any time is an end like another."""
        with self._connect(self._port) as client:
            client.open_websocket()
            for message in ["", *map(str, range(10))]:
                if message:
                    client.send(text(message))
                opcode, payload = client.read_frame()
                if opcode == 0x88:
                    assert payload == DRAINED
                    self.outcomes["drained"] += 1
                    return
                if message:
                    assert payload.decode() == message
                else:
                    self.pids.add(int(payload))
            client.send(close(1000))
            opcode, payload = client.read_frame()
            assert opcode == 0x88
            self.outcomes["echoed" if payload != DRAINED else "drained"] += 1

    def request(self) -> None:
        """A new connection for one request."""
        with self._connect(self._port) as client:
            self.pids.add(get(client))
        self.outcomes["answered"] += 1

    def kept_alive(self) -> None:
        """Requests on one connection, until an answer says that it is the last."""
        with self._connect(self._port) as client:
            while not self._ended.is_set():
                client.send(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
                answer = client.read_answer()
                assert answer.status == 200
                self.outcomes["kept alive"] += 1
                if answer.header(b"connection") == b"close":
                    assert client.read_to_end() == b""
                    self.outcomes["told to close"] += 1
                    return
