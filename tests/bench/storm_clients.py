"""The clients of the storm: a crowd that drops and comes back at once, and others that stay and talk.

One thread, sockets that never block, prepared bytes. What the crowd does is cut into small pieces, and the sockets that
stay are served between two of them, so that their times are the server's and not those of this process.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench import wire
from tests.raw import frame

_SIZE: Final = 32
_PIECE: Final = 16
"""Clients that drop or connect before the sockets that stay are served again."""
_RETRY_S: Final = 0.2
"""After a refusal."""
_GONE: Final = struct.pack("ii", 1, 0)


@dataclass
class Outcome:
    """What one storm was like."""

    back_s: float = 0.0
    """Until the last client was back."""
    cpu_s: float = 0.0
    """Of the server."""
    missing: int = 0
    """Clients that were not back in time."""
    refused: int = 0
    echoes_s: list[float] = field(default_factory=list)
    """How long each echo of a socket that stayed took."""
    pause_s: float = 0.0
    """The longest time for which this process did not look at these sockets."""


class Staying:
    """Sockets that send a message each by the clock, and measure their echoes."""

    def __init__(self, clients: Sequence[socket.socket], every_s: float) -> None:
        """`every_s` is the time between two messages of one socket."""
        self._clients = clients
        self._apart_s = every_s / max(1, len(clients))
        self._request = frame(wire.TEXT, wire.payload_of(_SIZE))
        self._answer_bytes = wire.server_frame_bytes(_SIZE)
        self._sent_s: dict[int, deque[float]] = {client.fileno(): deque() for client in clients}
        self._read = dict.fromkeys(self._sent_s, 0)
        self._by_number = {client.fileno(): client for client in clients}
        self._epoll = select.epoll()
        for client in clients:
            client.setblocking(False)
            self._epoll.register(client, select.EPOLLIN)
        self._buffer = bytearray(4096)
        self._next_at_s = 0.0
        self._served_at_s = 0.0
        self._turn = 0
        self.owed = 0
        """Messages that were not answered yet."""

    def begin(self) -> None:
        """Start the clock."""
        self._next_at_s = self._served_at_s = time.monotonic()

    def close(self) -> None:
        """Leave the sockets to their owner."""
        self._epoll.close()

    def serve(self, outcome: Outcome, *, sends: bool = True) -> None:
        """Send what is due, and read what has come."""
        if not self._clients:
            return
        now_s = time.monotonic()
        outcome.pause_s, self._served_at_s = max(outcome.pause_s, now_s - self._served_at_s), now_s
        while sends and self._next_at_s <= now_s:
            client = self._clients[self._turn]
            self._sent_s[client.fileno()].append(time.monotonic())
            client.send(self._request)
            self.owed += 1
            self._turn = (self._turn + 1) % len(self._clients)
            self._next_at_s += self._apart_s
        for number, _ in self._epoll.poll(0):
            size = self._by_number[number].recv_into(self._buffer)
            if not size:
                raise ConnectionError("a socket that stayed was closed")
            self._read[number] += size
            now_s = time.monotonic()
            while self._read[number] >= self._answer_bytes:
                self._read[number] -= self._answer_bytes
                outcome.echoes_s.append(now_s - self._sent_s[number].popleft())
                self.owed -= 1


class Crowd:
    """Clients of one port and path that all drop and come back at once."""

    def __init__(self, port: int, path: str, count: int) -> None:
        self._address = ("127.0.0.1", port)
        self._request = wire.opening(path)
        self._count = count
        self._clients: list[socket.socket] = []
        self._opening: dict[int, socket.socket] = {}
        self._epoll = select.epoll()

    def storm(self, staying: Staying, most_s: float) -> Outcome:
        """Drop all and come back, and wait until the last one is, or for `most_s` seconds."""
        outcome, began_s = Outcome(), time.monotonic()
        dropping, self._clients = self._clients, []
        retries: deque[tuple[float, int]] = deque([(0.0, self._count)])
        staying.begin()
        while len(self._clients) < self._count and time.monotonic() < began_s + most_s:
            staying.serve(outcome)
            if dropping:
                _drop(dropping[-_PIECE:])
                del dropping[-_PIECE:]
                continue
            self._connect_some(retries)
            for number, events in self._epoll.poll(0, _PIECE):
                if not self._move(number, events):
                    outcome.refused += 1
                    retries.append((time.monotonic() + _RETRY_S, 1))
        outcome.back_s = time.monotonic() - began_s
        outcome.missing = self._count - len(self._clients)
        while staying.owed and time.monotonic() < began_s + most_s + 1:
            staying.serve(outcome, sends=False)
        return outcome

    def close(self) -> None:
        """Drop all for good."""
        _drop([*self._clients, *self._opening.values()])
        self._epoll.close()

    def _connect_some(self, retries: deque[tuple[float, int]]) -> None:
        """Begin to connect a piece of those whose time has come."""
        if retries and retries[0][0] <= time.monotonic():
            at_s, count = retries.popleft()
            for _ in range(min(count, _PIECE)):
                self._connect()
            if count > _PIECE:
                retries.appendleft((at_s, count - _PIECE))

    def _connect(self) -> None:
        client = socket.socket()
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _GONE)
        client.connect_ex(self._address)
        self._opening[client.fileno()] = client
        try:  # on loopback it is mostly connected by now
            client.send(self._request)
        except OSError:
            self._epoll.register(client, select.EPOLLOUT)
        else:
            self._epoll.register(client, select.EPOLLIN)

    def _move(self, number: int, events: int) -> bool:
        """Send the request, or read its answer; return False when that is a refusal."""
        client = self._opening[number]
        try:
            if events & select.EPOLLOUT:
                client.send(self._request)
                self._epoll.modify(number, select.EPOLLIN)
                return True
            accepted = client.recv(4096).startswith(b"HTTP/1.1 101")
        except OSError:
            accepted = False
        del self._opening[number]
        self._epoll.unregister(number)
        if accepted:
            self._clients.append(client)
        else:
            client.close()
        return accepted


def _drop(clients: Iterable[socket.socket]) -> None:
    for client in clients:
        client.close()
