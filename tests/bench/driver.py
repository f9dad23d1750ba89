"""The clients: blocking sockets and bytes made before, in the process of the bench, on a core of their own.

A load opens its connections, checks one whole answer byte by byte, and then plays steps: each step sends a unit of
work on every connection and reads all the answers, counted and not looked at. So no step ends before all of its
messages were answered, and what a client costs does not enter: only the server's CPU time is read.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from tests.bench import wire
from tests.raw import ACCEPT, frame, handshake

PATIENCE_S = 20
_PIECE = 1 << 18


class Refused(Exception):  # noqa: N818 - what happened
    """A server did not answer as it should; says what was seen."""


class Load(Protocol):
    """Connections to one server that repeat one unit of work."""

    units: int
    """Units of work in a step."""

    def play(self, steps: int) -> None: ...

    def close(self) -> None: ...


def connect(port: int, source: str = "") -> socket.socket:
    """A blocking socket that waits at most 20 s for anything; `source` is the address that it has."""
    client = socket.create_connection(("127.0.0.1", port), source_address=(source, 0) if source else None)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel's own limit: a timeout of Python's would cost a poll for each call.
    limit = struct.pack("ll", PATIENCE_S, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    return client


@contextlib.contextmanager
def closed_on_error(clients: Sequence[socket.socket]) -> Iterator[None]:
    """Leave no connection behind when a load cannot begin."""
    try:
        yield
    except BaseException:
        close_all(clients)
        raise


def read_answer(client: socket.socket, status: bytes, mark: bytes) -> bytes:
    """A response of that status up to and with the mark, which has to be the last. Raises Refused for another."""
    data = b""
    while not data.endswith(mark):
        piece = client.recv(65536)
        if not piece:
            raise Refused(f"the server closed after {data[:200]!r}")
        data += piece
        if not data.startswith((b"HTTP/1.1 " + status)[: len(data)]):
            raise Refused(f"{status.decode()} was expected and not {data[:200]!r}")
    return data


def read_exactly(client: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = client.recv(min(size - len(data), _PIECE))
        if not piece:
            raise Refused(f"the server closed after {len(data)} of {size} bytes")
        data += piece
    return bytes(data)


def open_websockets(port: int, count: int, path: str, *, compression: bool = False) -> list[socket.socket]:
    """Open WebSockets one after the other; with a browser's offer of compression or without."""
    request = wire.opening(path, compression=compression)
    clients: list[socket.socket] = []
    with closed_on_error(clients):
        for _ in range(count):
            client = connect(port)
            clients.append(client)
            client.sendall(request)
            head = read_answer(client, b"101", b"\r\n\r\n")
            if ACCEPT not in head:
                raise Refused(f"a handshake was answered with {head[:200]!r}")
    return clients


def close_all(clients: Sequence[socket.socket]) -> None:
    """Close with a reset, so that no port stays taken."""
    for client in clients:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()


def read_frame(read: Callable[[int], bytes]) -> bytes:
    """One frame, and nothing after it."""
    data = read(_PIECE)
    while (end := wire.frame_end(data, 0)) > len(data):
        piece = read(_PIECE)
        if not piece:
            raise Refused(f"the server closed after {len(data)} bytes of a frame")
        data += piece
    if end != len(data):
        raise Refused(f"more than one frame: {data[:80]!r}")
    return data


class Lockstep:
    """The same bytes on every connection and answers of a known length."""

    def __init__(self, clients: list[socket.socket], request: bytes, answer_bytes: int, in_flight: int = 1) -> None:
        self.units = len(clients) * in_flight
        self.clients = clients
        self.request = request * in_flight
        self.answer_bytes = answer_bytes * in_flight

    def play(self, steps: int) -> None:
        request, answer_bytes = self.request, self.answer_bytes
        sends = [client.sendall for client in self.clients]
        reads = [client.recv_into for client in self.clients]
        buffer = memoryview(bytearray(min(answer_bytes, _PIECE)))
        for _ in range(steps):
            for send in sends:
                send(request)
            for read in reads:
                owed = answer_bytes
                while owed:
                    size = read(buffer, owed) if owed < _PIECE else read(buffer)
                    if not size:
                        raise Refused(f"the server closed with {owed} of {answer_bytes} bytes owed")
                    owed -= size

    def close(self) -> None:
        close_all(self.clients)


class Echo(Lockstep):
    """WebSocket messages and their echoes, not compressed."""

    def __init__(
        self, port: int, count: int, in_flight: int, size: int, opcode: int = wire.TEXT,
        make: Callable[[int], bytes] = wire.payload_of,
    ) -> None:  # fmt: skip
        clients = open_websockets(port, count, f"/echo?size={size}&opcode={opcode}")
        request = frame(opcode, make(size))
        super().__init__(clients, request, wire.server_frame_bytes(size), in_flight)
        with closed_on_error(clients):
            for client in clients:
                client.sendall(request)
                answer = read_exactly(client, wire.server_frame_bytes(size))
                if answer[0] != 0x80 | opcode or wire.frame_end(answer, 0) != len(answer):
                    raise Refused(f"a message was answered with {answer[:80]!r}")


class InTurn(Echo):
    """One connection after the other: the next message leaves when all of the one before were answered."""

    def play_messages(self, messages: int, in_flight: int) -> int:
        """Play about so many, but at least one turn of each connection; gives how many."""
        request = self.request * in_flight
        answer_bytes = self.answer_bytes * in_flight
        buffer = bytearray(answer_bytes)
        turns = max(1, messages // in_flight // len(self.clients))
        for _ in range(turns):
            for client in self.clients:
                client.sendall(request)
                owed = answer_bytes
                while owed:
                    size = client.recv_into(buffer, owed)
                    if not size:
                        raise Refused("the server closed")
                    owed -= size
        return turns * len(self.clients) * in_flight


class HTTP(Lockstep):
    """Requests on kept connections; every answer is as long as the first."""

    def __init__(self, port: int, count: int, request: bytes, body: bytes) -> None:
        clients: list[socket.socket] = []
        sizes = set()
        with closed_on_error(clients):
            for _ in range(count):
                client = connect(port)
                clients.append(client)
                client.sendall(request)
                sizes.add(len(read_answer(client, b"200", body)))
            if len(sizes) != 1:
                raise Refused(f"answers of different lengths: {sorted(sizes)}")
        super().__init__(clients, request, sizes.pop())


class Targets:
    """Requests of many clients, none like another: a cookie for each client, and a query for each request."""

    def __init__(self, port: int, count: int, body: bytes) -> None:
        self.units = count
        self.clients: list[socket.socket] = []
        self._cookies = [b"Cookie: session=%032d\r\n" % place for place in range(count)]
        self._number = 10**6
        sizes = set()
        with closed_on_error(self.clients):
            for cookie in self._cookies:
                client = connect(port)
                self.clients.append(client)
                client.sendall(self._request(cookie))
                sizes.add(len(read_answer(client, b"200", body)))
            if len(sizes) != 1:
                raise Refused(f"answers of different lengths: {sorted(sizes)}")
        self._answer_bytes = sizes.pop()

    def _request(self, cookie: bytes) -> bytes:
        self._number += 1
        head = b"GET /?n=%d HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n%s\r\n"
        return head % (self._number, cookie)

    def play(self, steps: int) -> None:
        for _ in range(steps):
            for client, cookie in zip(self.clients, self._cookies, strict=True):
                client.sendall(self._request(cookie))
            for client in self.clients:
                read_exactly(client, self._answer_bytes)

    def close(self) -> None:
        close_all(self.clients)


class Frames:
    """Messages whose answers have lengths of their own: frames are counted by their heads.

    Each step sends one of `requests` with each of `senders`, the next one from each to the next, and every one of
    `clients` gets a frame.
    """

    def __init__(
        self, clients: list[socket.socket], senders: Sequence[socket.socket], requests: Sequence[bytes]
    ) -> None:
        self.units = len(clients)
        self.clients = clients
        self._senders = senders
        self._requests = requests
        self._next = 0

    def play(self, steps: int) -> None:
        sends = [client.sendall for client in self._senders]
        reads = [client.recv for client in self.clients]
        requests = self._requests
        for _ in range(steps):
            for send in sends:
                send(requests[self._next])
                self._next = (self._next + 1) % len(requests)
            for read in reads:
                read_frame(read)

    def answer_bytes(self) -> float:
        """How long a frame of the answers is, over all of the requests."""
        sizes = []
        for request in self._requests:
            self._senders[0].sendall(request)
            for client in self.clients[: 1 if len(self._senders) > 1 else None]:
                head = read_exactly(client, 2)
                width = {126: 2, 127: 8}.get(head[1], 0)
                size = int.from_bytes(read_exactly(client, width), "big") if width else head[1]
                read_exactly(client, size)
                sizes.append(2 + width + size)
        return sum(sizes) / len(sizes)

    def close(self) -> None:
        close_all(self.clients)


class Broadcast(Frames):
    """One of the clients sends, all of them get it."""

    def __init__(self, port: int, count: int, size: int, *, compression: bool = False) -> None:
        clients = open_websockets(port, count, f"/broadcast?size={size}", compression=compression)
        messages = wire.records(size, 64)
        make = wire.compressed_frame if compression else lambda payload: frame(wire.TEXT, payload)
        super().__init__(clients, clients[:1], [make(message) for message in messages])


class CompressedEcho(Frames):
    """JSON messages, compressed both ways, another one from each connection each time."""

    def __init__(self, port: int, count: int, size: int) -> None:
        clients = open_websockets(port, count, "/echo", compression=True)
        super().__init__(clients, clients, [wire.compressed_frame(message) for message in wire.records(size, 64)])
        with closed_on_error(clients):
            clients[0].sendall(self._requests[0])
            first = read_frame(clients[0].recv)
            if first[:1] != b"\xc1":
                raise Refused(f"the answer is not a compressed text frame: {first[:80]!r}")


class Handshakes:
    """Connect, handshake, Close, and its answer, several connections at a time."""

    def __init__(self, port: int, at_once: int, fields: Sequence[str] = ()) -> None:
        self.units = at_once
        self._port = port
        self._request = handshake("/echo", *fields)

    def play(self, steps: int) -> None:
        for _ in range(steps):
            clients = [connect(self._port) for _ in range(self.units)]
            with closed_on_error(clients):
                self._play_once(clients)

    def _play_once(self, clients: list[socket.socket]) -> None:
        for client in clients:
            client.sendall(self._request)
        for client in clients:
            read_answer(client, b"101", b"\r\n\r\n")
        for client in clients:
            client.sendall(wire.CLOSE)
        for client in clients:
            answer = client.recv(64)
            # An end without a Close is an end as well.
            if answer and answer[0] != 0x88:
                raise Refused(f"a Close was answered with {answer!r}")
            client.close()

    def close(self) -> None:
        """Nothing stays open between steps."""


class Resets(Handshakes):
    """Connect, handshake, and a reset instead of a Close, as of phones that lose their network.

    The server sees the resets of a step while the next one opens its connections.
    """

    def _play_once(self, clients: list[socket.socket]) -> None:
        for client in clients:
            client.sendall(self._request)
        for client in clients:
            read_answer(client, b"101", b"\r\n\r\n")
        close_all(clients)
