"""A process full of idle clients: it opens WebSockets, answers pings, counts messages, and comes back when closed.

It obeys orders that come through a pipe (`Order`), and always looks after its sockets in between. Its clients have a
loopback address of their own, because one address has 28,000 ports on Linux.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

from tests.bench import wire
from tests.bench.driver import Refused, close_all, connect, read_answer
from tests.raw import frame

_AT_ONCE: Final = 64
_PING, _CLOSE = 0x89, 0x88
_TEXT: Final = (0x81, 0xC1)


class Order(NamedTuple):
    """What a crowd is told to do."""

    do: str
    """open, say (a message), report, or end."""
    port: int = 0
    amount: int = 0
    """Sockets, or bytes."""
    path: str = "/"


@dataclass
class Report:
    """What a crowd has seen since its last report."""

    open: int = 0
    pings: int = 0
    messages: int = 0
    last_message_s: float = 0.0
    """When the last message was read, by the monotonic clock of the machine."""
    returned: int = 0
    """Sockets that were closed with 1012, to be opened again."""
    lost: int = 0
    """Sockets that ended in another way, to be opened again."""
    refused: int = 0
    """Times that sockets could not be opened."""


class Crowd:
    """The clients of one process."""

    def __init__(self, address: str, orders: Connection) -> None:
        self._address = address
        self._orders = orders
        self._poll = select.epoll()
        self._poll.register(orders.fileno(), select.EPOLLIN)
        self._clients: dict[int, socket.socket] = {}
        self._request = b""
        self._port = 0
        self._missing = 0
        """Sockets to open."""
        self._report = Report()

    def run(self) -> None:
        """Obey until told to end."""
        try:
            while True:
                for number, _ in self._poll.poll(0 if self._missing else None):
                    if number == self._orders.fileno():
                        if not self._obey(self._orders.recv()):
                            return
                    else:
                        self._read(number)
                # After what has come, so that no Close waits for its answer, and many at a time, as many are closed
                if self._missing:
                    self._open(min(_AT_ONCE, self._missing))
        except EOFError:
            return  # who gives the orders has ended
        finally:
            close_all(list(self._clients.values()))

    def _obey(self, order: Order) -> bool:
        if order.do == "open":
            self._port, self._request = order.port, wire.opening(order.path)
            self._missing += order.amount
            while self._missing:
                self._open(min(_AT_ONCE, self._missing))
        elif order.do == "say":
            next(iter(self._clients.values())).sendall(frame(wire.TEXT, wire.payload_of(order.amount)))
        elif order.do == "end":
            return False
        self._report.open = len(self._clients)
        self._orders.send(self._report)
        if order.do == "report":
            self._report = Report()
        return True

    def _open(self, count: int) -> None:
        """Open so many sockets; those that cannot be opened stay missing."""
        opened: list[socket.socket] = []
        clients: list[socket.socket] = []
        try:
            for _ in range(count):
                clients.append(connect(self._port, self._address))
                clients[-1].sendall(self._request)
            for client in clients:
                read_answer(client, b"101", b"\r\n\r\n")
                opened.append(client)
        except (OSError, Refused):
            self._report.refused += 1
            close_all(clients[len(opened) :])
        for client in opened:
            self._clients[client.fileno()] = client
            self._poll.register(client.fileno(), select.EPOLLIN)
        self._missing -= len(opened)

    def _read(self, number: int) -> None:
        client = self._clients[number]
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        at = 0
        while at < len(data):
            end = wire.frame_end(data, at)
            while end > len(data):
                data += client.recv(65536)
                end = wire.frame_end(data, at)
            kind = data[at]
            if kind == _PING:
                self._report.pings += 1
                client.sendall(frame(10, data[at + 2 : end]))
            elif kind in _TEXT:
                self._report.messages += 1
                self._report.last_message_s = time.monotonic()
            elif kind == _CLOSE:
                self._leave(number, client, data[at + 2 : end])
                return
            at = end
        if not data:
            self._report.lost += 1
            self._forget(number, client)

    def _leave(self, number: int, client: socket.socket, payload: bytes) -> None:
        """Answer a Close."""
        with contextlib.suppress(OSError):
            client.sendall(frame(8, payload))
        if struct.unpack("!H", payload[:2]) == (1012,):
            self._report.returned += 1
        else:
            self._report.lost += 1
        self._forget(number, client)

    def _forget(self, number: int, client: socket.socket) -> None:
        self._poll.unregister(number)
        del self._clients[number]
        client.close()
        self._missing += 1


def live(address: str, orders: Connection) -> None:
    """Run a crowd: what its process is started with."""
    Crowd(address, orders).run()
