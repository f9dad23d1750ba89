"""What the tests of the WebSocket modules share: a client's frames as bytes, and a connection that feeds and takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import cycle, pairwise
from operator import xor
from typing import NamedTuple

from hypothesis import settings
from websockets.extensions import Extension
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from asgiws.protocol.errors import RULES, Violation
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket.closing import Close
from asgiws.protocol.websocket.frames import CLOSE, CONTINUATION, TEXT
from asgiws.protocol.websocket.receiver import ENDED, NO_COMPRESSION, Item, Receiver

LIMITS = Limits()
relaxed = settings(deadline=None)
"""Of properties: what a slow machine takes its time for is no failure."""
KEY = bytes((0x37, 0xFA, 0x21, 0x3D))
"""The masking key of the examples in RFC 6455 §5.7."""
NO_KEY = bytes(4)
"""A key that changes nothing, for payloads too large to mask octet by octet."""

HEADER_MOST = 14
CONTROL_MOST = 131
"""Bytes of the largest control frame: two, the key, and 125 of payload."""


def mask(payload: bytes, key: bytes = KEY) -> bytes:
    """RFC 6455 §5.3 to the letter: octet i exclusive-or octet i modulo 4 of the key."""
    return payload if key == NO_KEY else bytes(map(xor, payload, cycle(key)))


def client_frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    width: int | None = None,
    length: int | None = None,
) -> bytes:
    """Give a client's frame.

    `rsv` is the three bits as a number, `key` None leaves the frame unmasked, `width` is the bytes that the extended
    length takes (0, 2 or 8; the fewest unless given), `length` is what the header says instead of the truth.
    """
    size = len(payload) if length is None else length
    if width is None:
        width = 0 if size < 126 else 2 if size < 0x10000 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    first = fin << 7 | rsv << 4 | opcode
    head = bytes((first, (key is not None) << 7 | short)) + (size.to_bytes(width, "big") if width else b"")
    return head + (payload if key is None else key + mask(payload, key))


def close_frame(payload: bytes) -> bytes:
    """Give a client's Close frame."""
    return client_frame(payload, CLOSE)


def fragments(pieces: Iterable[bytes], opcode: int = TEXT, rsv: int = 0, key: bytes = KEY) -> list[bytes]:
    """Give a message as one frame per piece (RFC 6455 §5.4): the first has the opcode and RSV bits, the last FIN."""
    parts = list(pieces)
    last = len(parts) - 1
    return [
        client_frame(part, CONTINUATION if at else opcode, fin=at == last, rsv=0 if at else rsv, key=key)
        for at, part in enumerate(parts)
    ]


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    """Cut data at the places, in any order."""
    inner = sorted(place for place in places if 0 < place < len(data))
    return [data[start:stop] for start, stop in pairwise([0, *inner, len(data)])]


def octets(data: bytes) -> list[bytes]:
    """Cut data into single octets."""
    return [data[at : at + 1] for at in range(len(data))]


class Outcome(NamedTuple):
    """Everything that can be seen of a receiver after a feed."""

    items: list[Item]
    pings: list[bytes]
    pong: bytes | None
    ended: bool
    messages_in: int
    controls_in: int
    bytes_in: int


class Connection:
    """Feeds a receiver as a connection does, and takes the messages out as an application does."""

    def __init__(self, limits: Limits = LIMITS, compression: int = NO_COMPRESSION, *, fast: bool = True) -> None:
        self.inbox: list[Item] = []
        self.receiver = Receiver(limits, self.inbox, compression)
        if not fast:
            self.receiver._fast_firsts = ()
        self.items: list[Item] = []

    def feed(self, data: bytes) -> None:
        """Feed a packet and take all messages, until nothing that came is left unparsed."""
        self.arrive(data)
        self.take()

    def arrive(self, data: bytes) -> None:
        """Hand a packet to the receiver and take nothing."""
        if self.receiver.blocked:
            self.receiver.hold(data)
        else:
            self.receiver.feed(data)

    def take(self) -> None:
        """Take all messages, and what is parsed once there is room."""
        while True:
            while self.inbox:
                self.take_one()
            if not self.receiver.blocked:
                return
            self.receiver.resume()

    def take_one(self) -> Item:
        """Take one message."""
        item = self.inbox.pop(0)
        if isinstance(item, str | bytes):
            self.receiver.queued -= len(item)
        self.items.append(item)
        return item

    @property
    def outcome(self) -> Outcome:
        """What can be seen so far."""
        receiver = self.receiver
        return Outcome(
            self.items, receiver.pings or [], receiver.pong, receiver.state == ENDED,
            receiver.messages_in, receiver.controls_in, receiver.bytes_in,
        )  # fmt: skip


def run(
    pieces: Iterable[bytes], limits: Limits = LIMITS, compression: int = NO_COMPRESSION, *, fast: bool = True
) -> Outcome:
    """Feed the pieces one after the other, taking messages after each."""
    connection = Connection(limits, compression, fast=fast)
    for piece in pieces:
        connection.feed(piece)
    return connection.outcome


def ways(stream: bytes) -> Iterator[tuple[str, list[bytes], bool]]:
    """Give the ways to feed a stream that matter: the name, the pieces, whether with the fast path."""
    yield "whole", [stream], True
    yield "octets", octets(stream), True
    yield "general path", [stream], False


def delivered(stream: bytes, items: list[Item], limits: Limits = LIMITS, compression: int = NO_COMPRESSION) -> None:
    """Assert that a stream gives these items and no other, however it is fed."""
    for way, pieces, fast in ways(stream):
        assert run(pieces, limits, compression, fast=fast).items == items, way


def refused(
    broken: bytes,
    name: str,
    code: int,
    reason: str,
    *,
    before: Iterable[bytes | str] = ("before",),
    limits: Limits = LIMITS,
    compression: int = NO_COMPRESSION,
) -> None:
    """Assert that a stream ends in this violation: behind the messages that came before it, in front of all others."""
    assert RULES[name].code == code
    assert re.search(", (allowed: .|limit [0-9]|the limit$)", reason), "what was seen, what is allowed"
    stream = b"".join(
        client_frame(item.encode()) if isinstance(item, str) else client_frame(item, 2) for item in before
    )
    delivered(
        stream + broken + client_frame(b"after") + close_frame(b""),
        [*before, Violation(RULES[name], reason)],
        limits,
        compression,
    )


def closed(stream: bytes, close: Close) -> None:
    """Assert that a stream ends in this Close, with nothing read behind it."""
    delivered(client_frame(b"before") + stream + client_frame(b"after"), ["before", close])


# ---- an independent peer


class IndependentClient:
    """A client made of the `websockets` library's protocol without I/O, with the handshake behind it."""

    def __init__(self, extensions: Iterable[Extension] = ()) -> None:
        self._protocol = Protocol(Side.CLIENT, max_size=None)
        self._protocol.extensions = list(extensions)

    def send(self, message: str | bytes, pieces: int = 1) -> bytes:
        """Give a message as bytes on the wire, in so many fragments."""
        protocol = self._protocol
        payload = message.encode() if isinstance(message, str) else message
        begin = protocol.send_text if isinstance(message, str) else protocol.send_binary
        step = len(payload) // pieces
        for at in range(pieces):
            send = protocol.send_continuation if at else begin
            final = at == pieces - 1
            send(payload[at * step : None if final else (at + 1) * step], fin=final)
        return self.sent()

    def ping(self, payload: bytes) -> bytes:
        """Give a ping as bytes on the wire."""
        self._protocol.send_ping(payload)
        return self.sent()

    def close(self, code: int, reason: str) -> bytes:
        """Give a Close as bytes on the wire."""
        self._protocol.send_close(code, reason)
        return self.sent()

    def sent(self) -> bytes:
        """Give what the client has to say."""
        return b"".join(self._protocol.data_to_send())

    def receive(self, data: bytes) -> list[Frame]:
        """Give the frames that the client reads, inflated; raises where the library finds a fault."""
        protocol = self._protocol
        protocol.receive_data(data)
        if protocol.parser_exc is not None:
            raise protocol.parser_exc
        return [event for event in protocol.events_received() if isinstance(event, Frame)]

    def messages(self, data: bytes) -> list[str | bytes]:
        """Give the whole messages that the client reads."""
        return [
            bytes(frame.data).decode() if frame.opcode is Opcode.TEXT else bytes(frame.data)
            for frame in self.receive(data)
        ]
