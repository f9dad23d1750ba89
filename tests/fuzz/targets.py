"""What is fuzzed: each target takes any bytes, and raises AssertionError where the invariant does not hold.

The invariant is the same for all: the code gives a value of its documented kind or a `Violation` of a rule in `RULES`,
never an exception; it keeps and gives no more than its limits allow; and it says the same wherever packets are cut.

The first bytes of the data choose limits, modes and cuts; the rest is what the peer sends. A target is a function of
its data alone, so that what was found once is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate
from random import Random
from types import MappingProxyType
from typing import Final

from asgiws.protocol.errors import BAD_DEFLATE, RULES, Violation
from asgiws.protocol.http.body import ChunkedBody
from asgiws.protocol.http.forwarded import FORWARDED, FORWARDED_FIELDS, PREFIX, parse_node, trusted_source
from asgiws.protocol.http.head import RequestHead, parse_head
from asgiws.protocol.http.head_reader import HeadReader
from asgiws.protocol.limits import Limits
from asgiws.protocol.proxy_protocol import parse_proxy_header
from asgiws.protocol.trusted_networks import TrustedNetworks
from asgiws.protocol.websocket.closing import Close
from asgiws.protocol.websocket.deflate import OFF, DeflateSettings, Inflater, inflate_message, negotiate
from asgiws.protocol.websocket.handshake import Handshake, check_handshake, parse_extensions
from asgiws.protocol.websocket.receiver import ENDED, FRESH_WINDOW, KEPT_WINDOW, NO_COMPRESSION
from tests.protocol import engines, test_body, test_head, test_proxy_protocol
from tests.protocol.frame_help import CONTROL_MOST, HEADER_MOST, Connection, client_frame, cut, fragments, run
from tests.protocol.http_help import feed, request
from tests.protocol.test_receiver_properties import deflate, same

__all__ = ["SEEDS", "TARGETS"]

MIB = 2**20
LIMITS: Final = (
    Limits(),
    Limits(
        request_line_bytes=30, head_bytes=80, header_count=3, body_bytes=10, message_bytes=100, frame_bytes=50,
        fragment_count=3, empty_fragment_count=1, inbox_messages=2, inbox_bytes=60, control_rate=3, message_rate=4,
        byte_rate=300,
    ),
    Limits(head_bytes=5, message_bytes=1, inbox_messages=1, inbox_bytes=1),
    Limits(message_bytes=70000, inflate_ratio=0, inbox_messages=3),
    Limits(message_bytes=2 * MIB, inflate_ratio=20, fragment_count=6),
)  # fmt: skip
SETTINGS: Final = tuple(
    DeflateSettings(mode=mode, window_bits=bits) for mode in ("shared", "dedicated", OFF) for bits in (9, 12, 15)
)
PREFIX_BYTES: Final = 4


class Input:
    """The choices that the first bytes make, and what the peer sends."""

    def __init__(self, data: bytes) -> None:
        choices, self.sent = data[:PREFIX_BYTES].ljust(PREFIX_BYTES, b"\0"), data[PREFIX_BYTES:]
        self.limits = LIMITS[choices[0] % len(LIMITS)]
        self.choice = choices[1]
        self._random = Random(choices[2:])

    @property
    def pieces(self) -> list[bytes]:
        """What the peer sends, cut into packets: another way each time."""
        size, random = len(self.sent), self._random
        if random.random() < 0.2:
            step = random.choice((1, 2, 7))
            return [*cut(self.sent[:2000], range(0, 2000, step)), self.sent[2000:]]
        return cut(self.sent, [random.randint(0, size) for _ in range(random.randint(1, 8))])


def known(violation: Violation) -> None:
    """Assert that a violation is one of the table, and safe in logs, answers and close reasons."""
    assert RULES[violation.rule.name] is violation.rule
    assert violation.reason.isascii()
    assert violation.reason.isprintable()


# ---- HTTP


def head(data: bytes) -> None:
    """Read a request head with arbitrary cuts: the same as at once, but that an early fault may be named first."""
    given = Input(data)
    limits = given.limits
    whole, rest = feed([given.sent], limits)
    split, split_rest = feed(given.pieces, limits)
    if isinstance(whole, Violation):
        assert isinstance(split, Violation)
        assert split == whole or split.rule.name in test_head.EARLY
        known(whole)
        known(split)
    else:
        assert (split, split_rest) == (whole, rest)
    if isinstance(whole, RequestHead):
        assert len(whole.headers) <= limits.header_count + 1
        assert len(given.sent) - len(rest) <= limits.head_bytes + len(b"\r\n" + b"\r\n\r\n")
        assert whole.content_length is None or not limits.body_bytes or whole.content_length <= limits.body_bytes
    if whole is None:
        # What is incomplete is not more than what the limits allow to become a head
        assert len(rest) <= limits.head_bytes + 3
    reader = HeadReader(limits)
    for piece in given.pieces:
        reader.buffer += piece
        while isinstance(reader.next_head(), RequestHead):
            pass
    parsed = parse_head(given.sent, limits)
    if isinstance(parsed, Violation):
        known(parsed)


def chunked(data: bytes) -> None:
    """Read a chunked body with arbitrary cuts."""
    given = Input(data)
    limits = given.limits
    whole, whole_reader = _read_chunked([given.sent], limits)
    split, split_reader = _read_chunked(given.pieces, limits)
    if isinstance(whole, Violation):
        assert isinstance(split, Violation)
        assert split.rule is whole.rule
        known(whole)
        known(split)
        return
    assert (split, split_reader.complete) == (whole, whole_reader.complete)
    body, rest = whole
    assert not limits.body_bytes or len(body) <= limits.body_bytes
    assert len(body) + len(rest) <= len(given.sent)
    if not whole_reader.complete:
        assert len(rest) <= max(1024, limits.head_bytes) + 2


def _read_chunked(pieces: list[bytes], limits: Limits) -> tuple[Violation | tuple[bytes, bytes], ChunkedBody]:
    reader, buffer, body = ChunkedBody(limits), bytearray(), b""
    for piece in pieces:
        buffer += piece
        read = reader.read(buffer)
        if isinstance(read, Violation):
            return read, reader
        body += read
    return (body, bytes(buffer)), reader


def handshake(data: bytes) -> None:
    """Check a handshake that has any field lines beside the proper ones, or in their place."""
    given = Input(data)
    proper = [
        b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ]  # fmt: skip
    fields = [field for at, field in enumerate(proper) if not given.choice >> at & 1]
    read, _ = feed([request(*fields, given.sent)])
    if not isinstance(read, RequestHead):
        assert isinstance(read, Violation)
        known(read)
        return
    checked = check_handshake(read)
    if isinstance(checked, Violation):
        known(checked)
        return
    assert isinstance(checked, Handshake)
    assert len(set(checked.subprotocols)) == len(checked.subprotocols)
    for settings in SETTINGS:
        negotiate(checked.extensions, settings)


def forwarded(data: bytes) -> None:
    """Believe any fields of a proxy, each line another one: what comes of it is fit for a scope, or nothing."""
    given = Input(data)
    trusted = (TrustedNetworks(["127.0.0.1", "10.0.0.0/8"]), TrustedNetworks(["*"]))[given.choice & 1]
    fields: dict[bytes, list[bytes]] = {}
    for at, line in enumerate(given.sent.split(b"\n")):
        fields.setdefault(FORWARDED_FIELDS[(at + given.choice) % len(FORWARDED_FIELDS)], []).append(line)
    only_x = {name: values for name, values in fields.items() if name != FORWARDED}
    for chosen in (fields, only_x, {FORWARDED: [given.sent]}):
        client, secure, host, prefix = trusted_source(chosen, trusted)
        assert client is None or parse_node(client[0].encode()) == (client[0], 0)
        assert client is None or 0 <= client[1] <= 65535
        assert secure in (None, True, False)
        assert host is None or (host.isascii() and not set(host) & set(b' \t"/\\?#@<>'))
        assert prefix is None or "//" not in prefix + "/" * (prefix != "")
        assert prefix is None or PREFIX in chosen


def extensions(data: bytes) -> None:
    """Parse any offers and answer them: RFC 7692 §5.1, an answer keeps to what was offered."""
    given = Input(data)
    values = given.sent.split(b"\n")
    offers = parse_extensions(values)
    assert sum(len(offer.name) for offer in offers) <= len(given.sent)
    for settings in SETTINGS:
        agreement = negotiate(offers, settings)
        if agreement is None:
            continue
        assert settings.mode != OFF
        assert 9 <= agreement.server_window_bits <= settings.window_bits
        (answered,) = parse_extensions([agreement.response])
        answer = dict(answered.parameters)
        assert answered.name == "permessage-deflate"
        assert len(answer) == len(answered.parameters)
        assert ("server_no_context_takeover" in answer) is not agreement.server_takeover
        assert ("client_no_context_takeover" in answer) is not agreement.client_takeover
        assert any(
            offer.name == answered.name
            and ("client_max_window_bits" in dict(offer.parameters) or "client_max_window_bits" not in answer)
            for offer in offers
        )


# ---- WebSocket


def receiver_plain(data: bytes) -> None:
    """Receive frames without compression."""
    _receive(data, NO_COMPRESSION)


def receiver_fresh(data: bytes) -> None:
    """Receive frames, compressed ones each with a window of its own."""
    _receive(data, FRESH_WINDOW)


def receiver_kept(data: bytes) -> None:
    """Receive frames, compressed ones with one window."""
    _receive(data, KEPT_WINDOW)


def _receive(data: bytes, compression: int) -> None:
    for each in engines.ALL if compression else engines.ALL[:1]:
        with engines.using(each):
            _receive_on(Input(data), compression)


def _receive_on(given: Input, compression: int) -> None:
    bounds, pieces = given.limits, given.pieces
    whole = run([given.sent], bounds, compression)
    split = run(pieces, bounds, compression)
    general = run(pieces, bounds, compression, fast=False)
    # The docstring of the receiver names the one thing that a cut may change.
    assert same(whole, split) if compression else whole == split
    assert same(split, general) if compression else split == general
    for item in whole.items + split.items:
        if isinstance(item, Violation):
            known(item)
        elif not isinstance(item, Close):
            assert len(item) <= bounds.message_bytes
    _receive_bounded(pieces, bounds, compression, given.choice)


def _receive_bounded(pieces: list[bytes], bounds: Limits, compression: int, choice: int) -> None:
    connection = Connection(bounds, compression)
    receiver = connection.receiver
    held_most = bounds.message_bytes + max(CONTROL_MOST, HEADER_MOST)
    for at, (piece, arrived) in enumerate(zip(pieces, accumulate(map(len, pieces)), strict=True)):
        connection.arrive(piece)
        assert len(connection.inbox) <= bounds.inbox_messages + 1
        assert receiver.queued < bounds.inbox_bytes + bounds.message_bytes
        assert receiver.blocked or receiver.held_bytes <= held_most
        assert receiver.held_bytes <= arrived + bounds.message_bytes
        if choice >> at % 8 & 1:
            connection.take()
    connection.take()
    assert receiver.queued == 0
    assert receiver.held_bytes <= held_most
    ends = [item for item in connection.items if isinstance(item, Close | Violation)]
    assert ends == (connection.items[-1:] if receiver.state == ENDED else [])


def inflater(data: bytes) -> None:
    """Inflate two messages of any bytes, whole and in pieces, with each engine."""
    for each in engines.ALL:
        with engines.using(each):
            _inflate(Input(data))


def _inflate(given: Input) -> None:
    limits, takeover = given.limits, bool(given.choice & 1)
    whole, split = Inflater(limits, takeover), Inflater(limits, takeover)
    for _ in range(2):
        out, pieces_out = bytearray(), bytearray()
        fault = whole.finish(out, len(given.sent), given.sent)
        pieces_fault: Violation | None = None
        for piece in given.pieces:
            pieces_fault = pieces_fault or split.feed(piece, pieces_out, len(given.sent))
        pieces_fault = pieces_fault or split.finish(pieces_out, len(given.sent))
        assert len(out) <= limits.message_bytes + 1
        assert len(pieces_out) <= limits.message_bytes + 1
        if fault is None:
            assert (pieces_fault, pieces_out) == (None, out)
        else:
            known(fault)
            assert pieces_fault is not None
            # zlib drops what it inflated in the call that met the fault
            assert pieces_fault == fault or BAD_DEFLATE in (fault.rule, pieces_fault.rule)
            break
        alone = inflate_message(given.sent, limits) if not takeover else None
        assert alone is None or alone == out


def proxy_header(data: bytes) -> None:
    """Ask for a PROXY header as its bytes arrive: nothing, and then one answer."""
    sent = Input(data).sent
    answers = [parse_proxy_header(sent[:size]) for size in range(len(sent) + 1)]
    told = [answer for answer in answers if answer is not None]
    assert answers[: len(answers) - len(told)] == [None] * (len(answers) - len(told))
    for answer in told:
        if isinstance(answer, Violation):
            known(answer)
            assert isinstance(told[0], Violation)
        else:
            assert answer == told[0]
            assert answer.size == len(answers) - len(told)


TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = MappingProxyType(
    {
        target.__name__: target
        for target in (
            head, chunked, handshake, forwarded, extensions, receiver_plain, receiver_fresh, receiver_kept, inflater,
            proxy_header,
        )
    }
)  # fmt: skip

# ---- where the search begins

_OFFERS: Final = (
    b"permessage-deflate; client_max_window_bits\nx-a; b=c, permessage-deflate; server_max_window_bits=10",
    b'permessage-deflate; server_no_context_takeover; client_max_window_bits="12"',
)
_MESSAGES: Final = (
    b"".join(fragments(["ä€".encode(), b"", b"b"])) + client_frame(b"ping", 9),
    client_frame(b"x" * 126, 2) + client_frame(b"\x03\xe8bye", 8),
    client_frame(deflate(b"hello" * 20, 6, 15), rsv=4) + client_frame(deflate(b"hello", 6, 15), rsv=4),
    b"".join(fragments([deflate(bytes(5000), 9, 9)[:4], deflate(bytes(5000), 9, 9)[4:]], 2, 4)),
)
_CONTENTS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "head": tuple(test_head.SAMPLES),
    "chunked": (*test_body.SAMPLES, b"1;" + b"a" * 1500),
    "handshake": (b"Sec-WebSocket-Protocol: a, b", b"Origin: http://a", b"Sec-WebSocket-Extensions: " + _OFFERS[1]),
    "forwarded": (
        b'192.0.2.1, 10.0.0.1\nhttps, http\na.example, b\n/shop\nfor=192.0.2.1;proto=https, for="[::1]:80"',
        b'for="[2001:db8::1]:_a";host="a:8000";proto=wss , by=_x;for=10.0.0.1',
    ),
    "extensions": _OFFERS,
    "proxy_header": (*test_proxy_protocol.GOOD, *test_proxy_protocol.BAD),
    "inflater": (deflate(b"hello" * 20, 6, 15), deflate(bytes(5000), 9, 9), b"\x00\x01\x00\xfe\xffa"),
}
SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    name: tuple(
        bytes((at % len(LIMITS), 0, 0, at)) + content
        for content in _CONTENTS.get(name, _MESSAGES)
        for at in range(len(LIMITS))
    )
    for name in TARGETS
}
"""Inputs that get far into each target, with each of the limits."""
