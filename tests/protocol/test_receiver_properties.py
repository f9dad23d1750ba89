"""What holds for every stream: the same events for every split and on both paths, no exception, bounded memory.

One thing may depend on where a stream is cut: the name of the fault in a compressed message that is not DEFLATE and
breaks another rule as well. zlib throws away what it inflated in the call that met the fault, so the other one, in
front of it, is only seen when a packet ended between the two.
"""

from __future__ import annotations

import zlib
from itertools import accumulate

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asgiws.protocol.errors import BAD_DEFLATE, BAD_UTF8, Violation
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket.closing import Close
from asgiws.protocol.websocket.frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT
from asgiws.protocol.websocket.receiver import ENDED, FRESH_WINDOW, KEPT_WINDOW, NO_COMPRESSION, Item
from tests.protocol.frame_help import (
    CONTROL_MOST,
    HEADER_MOST,
    NO_KEY,
    Connection,
    Outcome,
    client_frame,
    cut,
    fragments,
    mask,
    octets,
    relaxed,
    run,
)

pytestmark = pytest.mark.usefixtures("engines")

MIB = 2**20
RSV1 = 4
thorough = settings(relaxed, max_examples=200)
COMPRESSIONS = st.sampled_from([NO_COMPRESSION, FRESH_WINDOW, KEPT_WINDOW])

# ---- streams


def deflate(payload: bytes, level: int, window_bits: int, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (compressor.compress(payload) + compressor.flush(flush)).removesuffix(b"\x00\x00\xff\xff")


TEXTS = st.text(max_size=40).map(str.encode) | st.sampled_from([b"x" * 125, b"x" * 126, "ä".encode() * 100])
SCRAPS = st.sampled_from(
    [b"\xc3", b"\xa4", b"\xe2\x82", b"\xac", b"\xed", b"\xa0", b"\xf0\x9f\x98", b"\x80", b"\xff", b"ok"]
)
NEARLY_TEXT = st.lists(TEXTS | SCRAPS, max_size=4).map(b"".join)
PAYLOADS = NEARLY_TEXT | st.binary(max_size=140) | st.sampled_from([bytes(300), bytes(65535), bytes(65536)])
KEYS = st.sampled_from([NO_KEY, b"\x37\xfa\x21\x3d"])


@st.composite
def compressed_payloads(draw: st.DrawFn) -> bytes:
    """Give compressed payloads, most of them proper, of all blocks that there are."""
    payload = draw(PAYLOADS)
    flush = draw(st.sampled_from([zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH, zlib.Z_FINISH]))
    wire = deflate(payload, draw(st.integers(0, 9)), draw(st.integers(9, 15)), flush)
    damage = draw(st.integers(0, 9))
    if flush == zlib.Z_FINISH and damage:
        wire += b"\x00"
    if damage == 1:
        wire = wire[: draw(st.integers(0, len(wire)))]
    if damage == 2 and wire:
        at = draw(st.integers(0, len(wire) - 1))
        wire = wire[:at] + bytes((wire[at] ^ 1 << draw(st.integers(0, 7)),)) + wire[at + 1 :]
    if damage == 3:
        wire += draw(st.binary(max_size=4))
    return wire * (draw(st.integers(2, 10)) if damage == 4 else 1)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """Give a message in one or more frames, with pings between them."""
    rsv = draw(st.sampled_from([0, 0, RSV1]))
    payload = draw(compressed_payloads() if rsv else PAYLOADS)
    pieces = cut(payload, draw(st.lists(st.integers(0, 150), max_size=3))) + draw(st.sampled_from([[], [b""]]))
    frames = fragments(pieces, draw(st.sampled_from([TEXT, BINARY])), rsv, draw(KEYS))
    return draw(st.sampled_from([b"", client_frame(b"?", PING)])).join(frames)


@st.composite
def odd_frames(draw: st.DrawFn) -> bytes:
    """Give a frame that may break any rule of the header."""
    payload = draw(st.binary(max_size=130))
    size = len(payload)
    return client_frame(
        payload,
        draw(st.integers(0, 15)),
        fin=draw(st.booleans()),
        rsv=draw(st.sampled_from([0, 0, 0, 1, 2, 4])),
        key=draw(st.none() | KEYS),
        width=draw(st.sampled_from([None, None, 2, 8] if size < 126 else [None, None, 8])),
        length=draw(st.none() | st.just(size)) if size else None,
    )


CONTROLS = st.builds(client_frame, st.binary(max_size=125), st.sampled_from([PING, PONG]))
CLOSES = st.builds(
    client_frame, st.sampled_from([b"", b"\x03\xe8", b"\x03\xe8bye", b"\x03", b"\x03\xed"]), st.just(CLOSE)
)
PARTS = st.one_of(messages(), messages(), messages(), CONTROLS, odd_frames(), CLOSES, st.binary(max_size=20))


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Give streams of frames, of which some are well-formed, some mutated, some noise."""
    stream = b"".join(draw(st.lists(PARTS, max_size=7)))
    for place, octet, removed in draw(
        st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=1), st.integers(0, 2)), max_size=2)
    ):
        stream = stream[:place] + octet + stream[place + removed :]
    return stream


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    """Give limits that such streams reach, or the default ones."""
    if draw(st.booleans()):
        return Limits()
    return Limits(
        message_bytes=draw(st.sampled_from([1, 100, 126, 300, 1000, 65535, 70000])),
        frame_bytes=draw(st.sampled_from([0, 0, 0, 50, 200])),
        fragment_count=draw(st.integers(1, 6)),
        empty_fragment_count=draw(st.integers(0, 2)),
        inbox_messages=draw(st.integers(1, 4)),
        inbox_bytes=draw(st.sampled_from([1, 60, 1000])),
        control_rate=draw(st.integers(0, 4)),
        message_rate=draw(st.integers(0, 4)),
        byte_rate=draw(st.sampled_from([0, 0, 0, 40, 300, 1000])),
    )


def same(one: Outcome, other: Outcome) -> bool:
    """Tell whether two outcomes are equal, but for the exception in this file's docstring."""
    if one == other:
        return True
    last, other_last = one.items[-1:], other.items[-1:]
    return (
        one._replace(items=one.items[:-1]) == other._replace(items=other.items[:-1])
        and all(isinstance(item, Violation) for item in last + other_last)
        and any(isinstance(item, Violation) and item.rule == BAD_DEFLATE for item in last + other_last)
    )


# ---- (1), (2): splits and paths


@thorough
@given(stream=streams(), places=st.lists(st.integers(0, 400), max_size=6), bounds=limits(), compression=COMPRESSIONS)
def test_any_split_gives_the_same_events(stream: bytes, places: list[int], bounds: Limits, compression: int) -> None:
    whole = run([stream], bounds, compression)
    assert same(whole, run(cut(stream, places), bounds, compression))
    assert same(whole, run([*octets(stream[:1500]), stream[1500:]], bounds, compression))
    if not compression:
        assert whole == run(cut(stream, places), bounds)


@thorough
@given(stream=streams(), places=st.lists(st.integers(0, 400), max_size=3), bounds=limits(), compression=COMPRESSIONS)
def test_fast_path_equals_general_path(stream: bytes, places: list[int], bounds: Limits, compression: int) -> None:
    pieces = cut(stream, places)
    fast, general = run(pieces, bounds, compression), run(pieces, bounds, compression, fast=False)
    assert same(fast, general)
    if not compression:
        assert fast == general


@settings(relaxed, max_examples=40)
@given(
    zeros=st.integers(MIB - 1, MIB + 1) | st.integers(MIB, 2 * MIB),
    padding=st.integers(0, 3000),
    ratio=st.sampled_from([0, 1, 200, 400, 600, 800]),
    most=st.sampled_from([MIB - 1, MIB, MIB + 1, MIB + 2, 16 * MIB]),
    scrap=SCRAPS,
    place=st.integers(0, 5000),
    parts=st.integers(1, 3),
    compression=st.sampled_from([FRESH_WINDOW, KEPT_WINDOW]),
)
def test_limits_on_inflating_decide_alike_for_every_split_and_path(
    zeros: int, padding: int, ratio: int, most: int, scrap: bytes, place: int, parts: int, compression: int
) -> None:
    incompressible = b"".join(b"%04d" % (at * at % 9973) for at in range(padding // 4))
    payload = deflate(bytes(zeros) + scrap + bytes(500) + incompressible, 6, 15)
    step = -(-len(payload) // parts)
    stream = b"".join(fragments([payload[at : at + step] for at in range(0, len(payload), step)], TEXT, RSV1, NO_KEY))
    bounds = Limits(message_bytes=most, inflate_ratio=ratio)
    whole = run([stream], bounds, compression)
    assert len(whole.items) == 1
    assert whole == run([stream], bounds, compression, fast=False)
    assert whole == run(cut(stream, [place]), bounds, compression)
    assert whole == run([stream[at : at + 50] for at in range(0, len(stream), 50)], bounds, compression)


# ---- (3): encode, mask, feed


@thorough
@given(
    sent=st.lists(
        st.tuples(st.text(max_size=50) | st.binary(max_size=300), st.lists(st.integers(0, 99)), st.booleans())
    ),
    compression=COMPRESSIONS,
    level=st.integers(0, 9),
    window_bits=st.integers(9, 15),
    key=st.binary(min_size=4, max_size=4),
    places=st.lists(st.integers(0, 1000), max_size=5),
)
def test_encoding_masking_and_feeding_is_the_identity(
    sent: list[tuple[str | bytes, list[int], bool]],
    compression: int,
    level: int,
    window_bits: int,
    key: bytes,
    places: list[int],
) -> None:
    compressor = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    flush = zlib.Z_SYNC_FLUSH if compression == KEPT_WINDOW else zlib.Z_FULL_FLUSH
    stream = b""
    for message, cuts, wanted in sent:
        payload = message.encode() if isinstance(message, str) else message
        opcode = TEXT if isinstance(message, str) else BINARY
        rsv = RSV1 if wanted and compression else 0
        if rsv:
            payload = (compressor.compress(payload) + compressor.flush(flush))[:-4]
        stream += b"".join(fragments(cut(payload, cuts), opcode, rsv, key))
    expected: list[Item] = [message for message, _, _ in sent]
    bounds = Limits(inbox_messages=3)
    assert run([stream], bounds, compression).items == expected
    assert run(cut(stream, places), bounds, compression).items == expected


# ---- (4): UTF-8 fails on the first octet that cannot be

TAIL = (0x80, 0xBF)
# Unicode, table 3-7, well-formed UTF-8 byte sequences: the range of the first octet, and those of what must follow
WELL_FORMED = [
    ((0x00, 0x7F), []),
    ((0xC2, 0xDF), [TAIL]),
    ((0xE0, 0xE0), [(0xA0, 0xBF), TAIL]),
    ((0xE1, 0xEC), [TAIL, TAIL]),
    ((0xED, 0xED), [(0x80, 0x9F), TAIL]),
    ((0xEE, 0xEF), [TAIL, TAIL]),
    ((0xF0, 0xF0), [(0x90, 0xBF), TAIL, TAIL]),
    ((0xF1, 0xF3), [TAIL, TAIL, TAIL]),
    ((0xF4, 0xF4), [(0x80, 0x8F), TAIL, TAIL]),
]


def first_impossible(payload: bytes) -> int | None:
    """Give where the first octet stands that no UTF-8 can have there; the end, if something is missing; else None."""
    expected: list[tuple[int, int]] = []
    for at, octet in enumerate(payload):
        if expected:
            low, high = expected.pop(0)
            if not low <= octet <= high:
                return at
        else:
            rows = [follow for (low, high), follow in WELL_FORMED if low <= octet <= high]
            if not rows:
                return at
            expected = list(rows[0])
    return len(payload) if expected else None


def stored_block(octet: bytes) -> bytes:
    return b"\x00\x01\x00\xfe\xff" + octet


EDGES = st.sampled_from([bytes((octet,)) for row in WELL_FORMED for octet in (*row[0], *sum(row[1], ()))])


@thorough
@given(st.lists(EDGES | SCRAPS | TEXTS, max_size=8).map(b"".join) | st.binary(max_size=12))
@example(b"\xed\xa0\x80")
@example(b"\xf4\x90\x80\x80")
@example(b"\xe0\x80")
def test_text_is_refused_at_the_first_octet_that_utf8_cannot_have(payload: bytes) -> None:
    """RFC 6455 §8.1, RFC 3629 §4: octet by octet, in one frame, in fragments, and in compressed ones."""
    place = first_impossible(payload)
    assert (place is None) == (payload.decode(errors="replace").encode() == payload)
    one_frame = [client_frame(length=len(payload) + 1), *octets(mask(payload)), mask(b"." * (len(payload) + 1))[-1:]]
    many = [client_frame(fin=False), *(client_frame(octet, CONTINUATION, fin=False) for octet in octets(payload)),
            client_frame(b".", CONTINUATION)]  # fmt: skip
    inflated = [client_frame(fin=False, rsv=RSV1),
                *(client_frame(stored_block(octet), CONTINUATION, fin=False) for octet in octets(payload)),
                client_frame(stored_block(b".") + b"\x00", CONTINUATION)]  # fmt: skip
    for pieces, compression in ((one_frame, NO_COMPRESSION), (many, NO_COMPRESSION), (inflated, FRESH_WINDOW)):
        connection = Connection(Limits(), compression)
        refused_at = None
        for at, piece in enumerate(pieces):
            connection.feed(piece)
            if connection.receiver.state == ENDED:
                refused_at = at - 1
                break
        assert refused_at == place
        last = connection.items[-1]
        assert last.rule == BAD_UTF8 if isinstance(last, Violation) else last == payload.decode() + "."


# ---- (6): no exception, bounded memory


@thorough
@given(stream=streams() | st.binary(max_size=3000), bounds=limits(), compression=COMPRESSIONS, step=st.integers(1, 700))
def test_receiver_never_raises_and_keeps_no_more_than_the_limits_allow(
    stream: bytes, bounds: Limits, compression: int, step: int
) -> None:
    connection = Connection(bounds, compression)
    receiver = connection.receiver
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    for piece, arrived in zip(pieces, accumulate(map(len, pieces)), strict=True):
        connection.arrive(piece)
        assert len(connection.inbox) <= bounds.inbox_messages + 1
        assert receiver.queued < bounds.inbox_bytes + bounds.message_bytes
        assert receiver.blocked or receiver.held_bytes <= bounds.message_bytes + max(CONTROL_MOST, HEADER_MOST)
        assert receiver.held_bytes <= arrived + bounds.message_bytes
        if step % 3:
            connection.take()
    connection.take()
    assert receiver.queued == 0
    assert receiver.held_bytes <= bounds.message_bytes + max(CONTROL_MOST, HEADER_MOST)
    ends = [item for item in connection.items if isinstance(item, Close | Violation)]
    assert ends == (connection.items[-1:] if receiver.state == ENDED else [])
    if ends:
        assert receiver.held_bytes == 0
