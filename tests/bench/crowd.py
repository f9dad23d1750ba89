"""Processes full of idle clients: they open WebSockets, answer pings, count messages, and come back when closed.

Each process obeys orders that come through a pipe (`Order`). It looks after its sockets also while it opens others,
because a server gives up on clients that do not answer its pings. It has some loopback addresses of its own, because
one address has 28,000 ports on Linux. A client leaves the end of the connection to the server (RFC 6455 section 7.1.1),
so its port is free at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import select
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, NamedTuple

from tests.bench import wire
from tests.bench.driver import Refused, close_all, connect, read_answer
from tests.raw import frame

_AT_ONCE: Final = 64
_ADDRESSES: Final = 8
_PING, _CLOSE = 0x89, 0x88
_TEXT: Final = (0x81, 0xC1)
_SERVICE_RESTART: Final = (1012).to_bytes(2, "big")
_LOOK_S: Final = 0.05
_END_S: Final = 60.0


class Order(NamedTuple):
    """What a process is told to do."""

    do: str
    """open, say (a message), report, or end."""
    port: int = 0
    amount: int = 0
    """Sockets, or bytes."""
    path: str = "/"


@dataclass
class Report:
    """What was seen since the last report."""

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

    def add(self, other: Report) -> None:
        """Add what was seen elsewhere, or before."""
        self.open += other.open
        self.pings += other.pings
        self.messages += other.messages
        self.last_message_s = max(self.last_message_s, other.last_message_s)
        self.returned += other.returned
        self.lost += other.lost
        self.refused += other.refused


class Crowd:
    """All clients, in several processes."""

    def __init__(self, processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for number in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=live, args=(number + 1, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    @property
    def pids(self) -> list[int]:
        """All processes of clients."""
        return [process.pid for process in self._processes if process.pid is not None]

    def open(self, count: int, ports: Sequence[int], path: str = "/") -> None:
        """Begin to open so many more sockets: each process its part, to the next of the ports."""
        share, more = divmod(count, len(self._pipes))
        self._order([
            Order("open", ports[number % len(ports)], share + (number < more), path)
            for number in range(len(self._pipes))
        ])  # fmt: skip

    def say(self, size: int, speakers: int = 1) -> None:
        """Let the first processes send a message of `size` bytes, each on one of its sockets."""
        self._order([Order("say", amount=size)] * speakers)

    def report(self) -> Report:
        """Return what all have seen since the last report."""
        total = Report()
        for each in self._order([Order("report")] * len(self._pipes)):
            total.add(each)
        return total

    def wait(self, done: Callable[[Report], bool], most_s: float) -> Report:
        """Return what was seen since the last report as soon as it is enough, or after `most_s`."""
        total, end_s = self.report(), time.monotonic() + most_s
        while not done(total) and time.monotonic() < end_s:
            time.sleep(_LOOK_S)
            total.open = 0
            total.add(self.report())
        return total

    def close(self) -> None:
        """End all processes; their sockets close with a reset."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(Order("end"))
            pipe.close()
        end_s = time.monotonic() + _END_S
        for process in self._processes:
            process.join(max(0.0, end_s - time.monotonic()))
            process.kill()

    def _order(self, orders: list[Order]) -> list[Report]:
        """Give the first processes an order each, and return their answers. Raises Refused when one has ended."""
        pipes = self._pipes[: len(orders)]
        try:
            for pipe, order in zip(pipes, orders, strict=True):
                pipe.send(order)
            return [pipe.recv() for pipe in pipes]
        except (EOFError, BrokenPipeError) as error:
            raise Refused("a process of clients has ended") from error


# ---- in a process of clients


def live(number: int, orders: Connection) -> None:
    """Run the clients of one process."""
    _Clients(number, orders).run()


class _Clients:
    """The clients of one process, the `number`th."""

    def __init__(self, number: int, orders: Connection) -> None:
        self._number = number
        self._orders = orders
        self._poll = select.epoll()
        self._poll.register(orders.fileno(), select.EPOLLIN)
        self._clients: dict[int, socket.socket] = {}
        self._closing: set[int] = set()
        """Those that have answered a Close."""
        self._request = b""
        self._port = 0
        self._tried = 0
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
        elif order.do == "say":
            next(iter(self._clients.values())).sendall(frame(wire.TEXT, wire.payload_of(order.amount)))
        elif order.do == "end":
            return False
        self._report.open = len(self._clients) - len(self._closing)
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
                self._tried += 1
                clients.append(connect(self._port, f"127.0.{self._number}.{1 + self._tried % _ADDRESSES}"))
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
        if not data:
            self._on_end(number, client)
        at = 0
        while at < len(data):
            end = wire.frame_end(data, at)
            while end > len(data) and (more := client.recv(65536)):
                data += more
                end = wire.frame_end(data, at)
            kind = data[at]
            if kind == _PING:
                self._report.pings += 1
                self._answer(client, 10, data[at + 2 : end])
            elif kind in _TEXT:
                self._report.messages += 1
                self._report.last_message_s = time.monotonic()
            elif kind == _CLOSE and number not in self._closing:
                self._closing.add(number)
                self._answer(client, 8, data[at + 2 : end])
                if data[at + 2 : at + 4] == _SERVICE_RESTART:
                    self._report.returned += 1
                else:
                    self._report.lost += 1
            at = end

    def _answer(self, client: socket.socket, opcode: int, payload: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended, as will be read
            client.sendall(frame(opcode, payload))

    def _on_end(self, number: int, client: socket.socket) -> None:
        """Close what the server has closed, and note that it is to be opened again."""
        if number in self._closing:
            self._closing.discard(number)
        else:
            self._report.lost += 1
        self._poll.unregister(number)
        del self._clients[number]
        client.close()
        self._missing += 1
