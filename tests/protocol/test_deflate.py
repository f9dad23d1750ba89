"""permessage-deflate (RFC 7692): what is negotiated, what a compressed message may be, and what inflating may cost."""

from __future__ import annotations

import tracemalloc
import zlib
from functools import cache

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from asgiws.protocol.errors import RULES, Violation
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket.closing import Close
from asgiws.protocol.websocket.deflate import (
    DEDICATED,
    OFF,
    SHARED,
    Agreement,
    Deflater,
    DeflateSettings,
    Inflater,
    negotiate,
)
from asgiws.protocol.websocket.frames import BINARY, CONTINUATION, PING, TEXT
from asgiws.protocol.websocket.handshake import ExtensionOffer, parse_extensions
from asgiws.protocol.websocket.receiver import FRESH_WINDOW, KEPT_WINDOW, Item
from tests.protocol.frame_help import (
    LIMITS,
    NO_KEY,
    IndependentClient,
    client_frame,
    close_frame,
    delivered,
    fragments,
    refused,
    run,
)

RSV1 = 4
MIB = 2**20
HELLO = bytes((0xF2, 0x48, 0xCD, 0xC9, 0xC9, 0x07, 0x00))
"""RFC 7692 §7.2.3.1: "Hello" compressed."""
NOT_DEFLATE = "compressed data that is not DEFLATE, allowed: DEFLATE"
TAIL = b"\x00\x00\xff\xff"

pytestmark = pytest.mark.usefixtures("engines")
both = pytest.mark.parametrize("compression", [FRESH_WINDOW, KEPT_WINDOW], ids=["fresh", "kept"])


def deflate(payload: bytes, level: int = 6) -> bytes:
    """Give the payload of a compressed message that needs no other one."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


def stored(payload: bytes, *, final: bool = False) -> bytes:
    """Give a block without compression (RFC 1951 §3.2.4): header byte, length, its complement, the bytes."""
    size = len(payload)
    return bytes((final,)) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little") + payload


def compressed(payload: bytes, opcode: int = TEXT, key: bytes = NO_KEY) -> bytes:
    """Give a whole compressed message as a frame; the payload is compressed already."""
    return client_frame(payload, opcode, rsv=RSV1, key=key)


# ---- negotiation (RFC 7692 §7.1)

NO_TAKEOVER = "server_no_context_takeover; client_no_context_takeover"
# Header value, and what is answered in the mode shared and in the mode dedicated; None is no compression.
NEGOTIATIONS: list[tuple[str, str | None, str | None]] = [
    # §7.1.1: context takeover
    ("permessage-deflate", NO_TAKEOVER, ""),
    ("permessage-deflate; server_no_context_takeover", NO_TAKEOVER, "server_no_context_takeover"),
    ("permessage-deflate; client_no_context_takeover", NO_TAKEOVER, "client_no_context_takeover"),
    ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", NO_TAKEOVER, NO_TAKEOVER),
    ("permessage-deflate; server_no_context_takeover=1", None, None),
    ("permessage-deflate; client_no_context_takeover=true", None, None),
    # §7.1.2.1: server_max_window_bits has a value, and is accepted by being in the answer
    *((f"permessage-deflate; server_max_window_bits={value}", f"{NO_TAKEOVER}; server_max_window_bits={bits}",
       f"server_max_window_bits={bits}") for value, bits in (("15", 15), ("10", 10), ("9", 9), ('"12"', 12))),
    ("permessage-deflate; server_max_window_bits=8", None, None),  # zlib has no such window
    ("permessage-deflate; server_max_window_bits", None, None),
    ("permessage-deflate; server_max_window_bits=7", None, None),
    ("permessage-deflate; server_max_window_bits=16", None, None),
    ("permessage-deflate; server_max_window_bits=010", None, None),
    ("permessage-deflate; server_max_window_bits=+10", None, None),
    ("permessage-deflate; server_max_window_bits=1_0", None, None),
    ("permessage-deflate; server_max_window_bits=10.0", None, None),
    ("permessage-deflate; server_max_window_bits=\xb2", None, None),
    ('permessage-deflate; server_max_window_bits=""', None, None),
    # §7.1.2.2: client_max_window_bits may come without a value, and is only answered when it came
    ("permessage-deflate; client_max_window_bits", NO_TAKEOVER, ""),
    ("permessage-deflate; client_max_window_bits=15", NO_TAKEOVER, ""),
    *((f"permessage-deflate; client_max_window_bits={value}", f"{NO_TAKEOVER}; client_max_window_bits={bits}",
       f"client_max_window_bits={bits}") for value, bits in (("14", 14), ("9", 9), ("8", 8), ('"11"', 11))),
    ("permessage-deflate; client_max_window_bits=7", None, None),
    ("permessage-deflate; client_max_window_bits=16", None, None),
    ("permessage-deflate; client_max_window_bits=08", None, None),
    # §7.1: unknown and repeated parameters decline the offer
    ("permessage-deflate; window_bits=10", None, None),
    ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None, None),
    ("permessage-deflate; client_max_window_bits; client_max_window_bits=10", None, None),
    ("permessage-deflate; server_max_window_bits=10; server_max_window_bits=10", None, None),
    # §5.1, §7: an offer that is declined leaves the ones behind it
    ("permessage-deflate; server_max_window_bits=8, permessage-deflate", NO_TAKEOVER, ""),
    ("permessage-deflate; unknown, permessage-deflate; client_max_window_bits=10",
     f"{NO_TAKEOVER}; client_max_window_bits=10", "client_max_window_bits=10"),
    ("permessage-deflate; server_max_window_bits=10, permessage-deflate", f"{NO_TAKEOVER}; server_max_window_bits=10",
     "server_max_window_bits=10"),
    ("permessage-bzip2, x-webkit-deflate-frame, permessage-deflate; client_max_window_bits", NO_TAKEOVER, ""),
    ("permessage-bzip2", None, None),
    ("", None, None),
    # what browsers send
    ("permessage-deflate; client_max_window_bits, permessage-deflate", NO_TAKEOVER, ""),
]  # fmt: skip


def answer(header: str, settings: DeflateSettings) -> str | None:
    """Give the parameters of the answer to a Sec-WebSocket-Extensions header."""
    agreement = negotiate(parse_extensions([header.encode("latin-1")]), settings)
    if agreement is None:
        return None
    name, _, parameters = agreement.response.decode().partition("; ")
    assert name == "permessage-deflate"
    return parameters


@pytest.mark.parametrize(("header", "shared", "dedicated"), NEGOTIATIONS, ids=[row[0] for row in NEGOTIATIONS])
def test_offer_is_answered_to_the_letter(header: str, shared: str | None, dedicated: str | None) -> None:
    """RFC 7692 §7.1."""
    assert answer(header, DeflateSettings(SHARED)) == shared
    assert answer(header, DeflateSettings(DEDICATED)) == dedicated


@pytest.mark.parametrize("header", [row[0] for row in NEGOTIATIONS])
def test_compression_that_is_off_is_never_negotiated(header: str) -> None:
    assert answer(header, DeflateSettings(OFF)) is None


@pytest.mark.parametrize(
    ("header", "parameters"),
    [
        ("permessage-deflate", "server_max_window_bits=10"),  # §7.1.2.1: may be answered without being offered
        ("permessage-deflate; server_max_window_bits=12", "server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=9", "server_max_window_bits=9"),
        ("permessage-deflate; client_max_window_bits", "server_max_window_bits=10; client_max_window_bits=10"),
        ("permessage-deflate; client_max_window_bits=12", "server_max_window_bits=10; client_max_window_bits=10"),
        ("permessage-deflate; client_max_window_bits=9", "server_max_window_bits=10; client_max_window_bits=9"),
    ],
)
def test_smaller_window_of_ours_is_answered(header: str, parameters: str) -> None:
    """RFC 7692 §7.1.2: the answer's windows are the offer's or smaller."""
    assert answer(header, DeflateSettings(DEDICATED, window_bits=10)) == parameters


def test_agreement_holds_what_the_answer_says() -> None:
    (offer,) = parse_extensions([b"permessage-deflate; server_max_window_bits=11; server_no_context_takeover"])
    response = b"permessage-deflate; server_no_context_takeover; server_max_window_bits=11"
    assert negotiate([offer], DeflateSettings(DEDICATED)) == Agreement(response, 11, False, True)
    shared = negotiate([offer], DeflateSettings(SHARED))
    assert shared is not None
    assert shared[1:] == (11, False, False)


@pytest.mark.parametrize("mode", [SHARED, DEDICATED])
@pytest.mark.parametrize("server_bits", [None, 9, 15])
@pytest.mark.parametrize("client_bits", [None, True, 9, 15])
@pytest.mark.parametrize("no_takeover", [False, True])
def test_independent_client_accepts_the_answer_and_speaks_it(
    mode: str, server_bits: int | None, client_bits: int | bool | None, no_takeover: bool
) -> None:
    """RFC 7692 §5.1: a client fails the connection over an answer that does not fit its offer."""
    factory = ClientPerMessageDeflateFactory(no_takeover, no_takeover, server_bits, client_bits)
    offer = ExtensionOffer("permessage-deflate", tuple(factory.get_request_params()))
    settings = DeflateSettings(mode, min_size_bytes=0)
    agreement = negotiate([offer], settings)
    assert agreement is not None
    (accepted,) = parse_extensions([agreement.response])
    client = IndependentClient([factory.process_response_params(accepted.parameters, [])])
    messages: list[Item] = ["the same words " * 99, b"the same words " * 99, "", "short"] * 3
    stream = b"".join(client.send(message, 2) for message in messages if isinstance(message, str | bytes))
    delivered(stream, messages, compression=KEPT_WINDOW if agreement.client_takeover else FRESH_WINDOW)


# ---- messages


@both
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        pytest.param(HELLO, "Hello", id="7.2.3.1-one-block"),
        pytest.param(b"\x00\x05\x00\xfa\xff\x48\x65\x6c\x6c\x6f\x00", "Hello", id="7.2.3.3-no-compression"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "Hello", id="7.2.3.4-final-block"),
        pytest.param(b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00", "Hello", id="7.2.3.5-two-blocks"),
        pytest.param(b"\x00", "", id="7.2.3.6-empty"),
        pytest.param(b"\x02\x00", "", id="empty-as-a-fixed-block"),
    ],
)
def test_examples_of_the_rfc(compression: int, payload: bytes, message: str) -> None:
    """RFC 7692 §7.2.3."""
    stream = compressed(payload) + compressed(payload, BINARY) + client_frame(b"plain")
    delivered(stream, [message, message.encode(), "plain"], compression=compression)


def test_example_of_a_shared_window() -> None:
    """RFC 7692 §7.2.3.2: the second "Hello" refers to the first."""
    stream = compressed(HELLO) + compressed(bytes((0xF2, 0x00, 0x11, 0x00, 0x00)))
    delivered(stream, ["Hello", "Hello"], compression=KEPT_WINDOW)


def test_message_that_refers_to_one_before_it_closes_1007_without_takeover() -> None:
    """RFC 7692 §7.1.1.2: a client that agreed to it MUST NOT use context takeover."""
    refused(
        compressed(bytes((0xF2, 0x00, 0x11, 0x00, 0x00))), "bad-deflate", 1007, NOT_DEFLATE, compression=FRESH_WINDOW
    )


@both
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_compressed_fragments_are_one_message(compression: int, size: int) -> None:
    """RFC 7692 §6.1: a message is compressed first and fragmented then; a ping may stand between (RFC 6455 §5.4)."""
    text = "Grüße und Küsse, " * 20
    payload = deflate(text.encode())
    parts = fragments([payload[at : at + size] for at in range(0, len(payload), size)] + [b""], rsv=RSV1)
    delivered(client_frame(b"", PING).join(parts), [text], compression=compression)


@both
@pytest.mark.parametrize("blocks", [8, 9])
def test_final_blocks_in_a_message_are_limited(compression: int, blocks: int) -> None:
    """RFC 7692 §7.2.3.4: a block with BFINAL may stand inside a message; each costs an inflater, so not any number."""
    payload = stored(b"word", final=True) * blocks + b"\x00"
    if blocks == 8:
        delivered(compressed(payload) * 2, ["word" * 8] * 2, compression=compression)
    else:
        reason = "9 final blocks in a message, limit 8"
        refused(compressed(payload), "bad-deflate", 1007, reason, compression=compression)


@both
@pytest.mark.parametrize("size", [1000, 3], ids=["whole", "fragments"])
@pytest.mark.parametrize("payload", [b"\xf3\x48\xcd\xc9\xc9\x07\x00", stored(b"Hello", final=True), b""])
def test_message_without_its_padding_byte_does_not_spoil_the_next(compression: int, payload: bytes, size: int) -> None:
    """RFC 7692 §7.2.3.4, §7.2.3.6: a final block, and an empty message, are followed by a byte of zero."""
    parts = fragments([payload[at : at + size] for at in range(0, len(payload), size)] or [b""], rsv=RSV1)
    message = "Hello" if payload else ""
    delivered(b"".join(parts) + compressed(HELLO) * 2, [message, "Hello", "Hello"], compression=compression)


@both
def test_window_goes_on_behind_a_final_block(compression: int) -> None:
    """RFC 1951 §3.2.3: distances reach over the blocks of a message."""
    final, second = stored(b"Hello", final=True), bytes((0xF2, 0x00, 0x11, 0x00, 0x00))
    delivered(compressed(final + second), ["HelloHello"], compression=compression)


@both
@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x07", id="reserved-block-type"),
        pytest.param(b"\x00\x05\x00\xfa\xfe" + b"Hello", id="length-without-its-complement"),
        pytest.param(HELLO + b"\xff\xff\xff", id="garbage-behind-a-block"),
        pytest.param(b"\xf3\x48\xcd\xc9\xc9\x07\x00" + b"\xff\xff", id="garbage-behind-a-final-block"),
        pytest.param(b"Hello", id="text-that-is-not-compressed"),
    ],
)
def test_payload_that_is_not_deflate_closes_1007(compression: int, payload: bytes) -> None:
    """RFC 7692 §7.2.2, RFC 6455 §7.4.1: data that is not consistent with the type of the message."""
    refused(compressed(payload), "bad-deflate", 1007, NOT_DEFLATE, compression=compression)


@both
def test_inflated_text_that_is_not_utf8_closes_1007(compression: int) -> None:
    """RFC 6455 §8.1, of what was inflated (RFC 7692 §6.2)."""
    bad = compressed(stored(b"ok\xff") + b"\x00")
    refused(bad, "bad-utf8", 1007, "text that is not UTF-8, allowed: UTF-8", compression=compression)


@both
def test_inflated_text_that_ends_inside_a_character_closes_1007(compression: int) -> None:
    bad = compressed(stored("ä".encode()[:1]) + b"\x00")
    refused(bad, "bad-utf8", 1007, "text that is not UTF-8, allowed: UTF-8", compression=compression)


@both
def test_bad_utf8_in_front_of_what_is_too_big_is_found_first(compression: int) -> None:
    """RFC 6455 §8.1: in the order of the bytes, however they are cut."""
    bad = compressed(stored(b"\xff" + b"x" * 200) + b"\x00")
    reason = "text that is not UTF-8, allowed: UTF-8"
    refused(bad, "bad-utf8", 1007, reason, limits=Limits(message_bytes=100), compression=compression)


# ---- RSV1 (RFC 7692 §6)


@both
def test_uncompressed_messages_may_stand_between_compressed_ones(compression: int) -> None:
    """RFC 7692 §6: a message without RSV1 is not compressed."""
    stream = client_frame(b"one") + compressed(HELLO) + client_frame(HELLO, BINARY) + compressed(HELLO)
    delivered(stream, ["one", "Hello", HELLO, "Hello"], compression=compression)


def test_rsv1_without_the_extension_closes_1002() -> None:
    """RFC 6455 §5.2: RSV bits MUST be 0 unless an extension is negotiated that defines meanings for them."""
    refused(compressed(HELLO), "reserved-bits", 1002, "RSV bits 100 in a frame of opcode 1, allowed: 000")


@both
@pytest.mark.parametrize("opcode", [8, 9, 10])
def test_rsv1_in_a_control_frame_closes_1002(compression: int, opcode: int) -> None:
    """RFC 7692 §6: control frames are not compressed."""
    reason = f"RSV bits 100 in a frame of opcode {opcode}, allowed: 100 in the first frame of a message"
    refused(client_frame(b"", opcode, rsv=4), "reserved-bits", 1002, reason, compression=compression)


@both
@pytest.mark.parametrize("first", [0, RSV1], ids=["plain", "compressed"])
def test_rsv1_in_a_continuation_closes_1002(compression: int, first: int) -> None:
    """RFC 7692 §6.1: RSV1 is set on the first frame of a message and on no other."""
    stream = client_frame(HELLO[:3], BINARY, fin=False, rsv=first) + client_frame(HELLO[3:], CONTINUATION, rsv=RSV1)
    reason = "RSV bits 100 in a frame of opcode 0, allowed: 100 in the first frame of a message"
    refused(stream, "reserved-bits", 1002, reason, compression=compression)


@both
@pytest.mark.parametrize("rsv", [1, 2, 3, 5, 6, 7])
def test_other_reserved_bits_close_1002_with_the_extension(compression: int, rsv: int) -> None:
    """RFC 6455 §5.2: permessage-deflate gives a meaning to RSV1 alone."""
    reason = f"RSV bits {rsv:03b} in a frame of opcode 1, allowed: 100 in the first frame of a message"
    refused(client_frame(HELLO, rsv=rsv), "reserved-bits", 1002, reason, compression=compression)


# ---- limits


@cache
def bomb(mebibytes: int) -> bytes:
    """Give zeros compressed, about 1,000 to 1."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = bytes(MIB)
    return b"".join([*(compressor.compress(zeros) for _ in range(mebibytes)), compressor.flush(zlib.Z_SYNC_FLUSH)])[:-4]


@both
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("cuts", [1, 200])
def test_bomb_of_200_mib_costs_less_than_twice_the_limit(compression: int, opcode: int, cuts: int) -> None:
    """RFC 7692 §8: 199 KiB that inflate to 200 MiB; uvicorn paid 16 MiB for this one, hypercorn 128 MiB."""
    limits = Limits(message_bytes=8 * MIB, inflate_ratio=0)
    payload = bomb(200)
    step = len(payload) // cuts
    parts = fragments([payload[at : at + step] for at in range(0, len(payload), step)], opcode, RSV1, NO_KEY)
    tracemalloc.start()
    try:
        outcome = run([b"".join(parts)], limits, compression)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    reason = f"message inflates to over {8 * MIB} bytes, the limit"
    assert outcome.items == [Violation(RULES["message-too-big"], reason)]
    assert peak < 2 * limits.message_bytes


@both
def test_bomb_in_a_small_frame_costs_less_than_twice_the_limit(compression: int) -> None:
    """The fast path: 41 KiB that inflate to 40 MiB of text."""
    limits = Limits(message_bytes=8 * MIB, inflate_ratio=0)
    stream = compressed(bomb(40))
    tracemalloc.start()
    try:
        outcome = run([stream], limits, compression)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [item.rule.name for item in outcome.items if isinstance(item, Violation)] == ["message-too-big"]
    assert peak < 2 * limits.message_bytes


@both
@pytest.mark.parametrize("size", [1000, 1001])
@pytest.mark.parametrize("parts", [1, 3])
def test_inflated_size_is_limited(compression: int, size: int, parts: int) -> None:
    """RFC 7692 §8."""
    payload = deflate(b"x" * size)
    step = -(-len(payload) // parts)
    stream = b"".join(fragments([payload[at : at + step] for at in range(0, len(payload), step)], rsv=RSV1))
    limits = Limits(message_bytes=1000)
    if size == 1000:
        delivered(stream, ["x" * 1000], limits, compression)
    else:
        reason = "message inflates to over 1000 bytes, the limit"
        refused(stream, "message-too-big", 1009, reason, limits=limits, compression=compression)


@both
@pytest.mark.parametrize("size", [200_000, 262_143, 262_144, 262_145, 524_288, 600_000])
def test_inflated_size_around_the_slices_is_exact(compression: int, size: int) -> None:
    payload = bytes(at * at % 251 for at in range(1000)) * (size // 1000 + 1)
    for limit, fits in ((size, True), (size - 1, False)):
        outcome = run([compressed(deflate(payload[:size]), BINARY)], Limits(message_bytes=limit), compression)
        assert outcome.items == (
            [payload[:size]] if fits
            else [Violation(RULES["message-too-big"], f"message inflates to over {limit} bytes, the limit")]
        )  # fmt: skip


@both
def test_incompressible_message_of_the_limit_is_allowed_as_deflate_enlarges_it(compression: int) -> None:
    """RFC 1951 §3.2.4: data that does not compress takes five bytes more for each block."""
    payload = bytes(at % 251 for at in range(20_000))
    wire = deflate(payload, level=0)
    assert len(wire) > len(payload)
    delivered(compressed(wire, BINARY), [payload], Limits(message_bytes=20_000), compression)


@both
def test_compressed_message_larger_than_any_deflate_makes_it_is_refused_by_its_header(compression: int) -> None:
    """RFC 6455 §10.4: 1,000 bytes, a 256th of it, and 1,024."""
    limits = Limits(message_bytes=1000)
    header = client_frame(b"", BINARY, rsv=RSV1, length=1000 + 3 + 1024 + 1)
    reason = "message of 2028 bytes or more, limit 1000"
    refused(header, "message-too-big", 1009, reason, limits=limits, compression=compression)


@both
@pytest.mark.parametrize("bomb_first", [False, True])
def test_inflate_ratio_is_limited_above_one_mebibyte(compression: int, bomb_first: bool) -> None:
    """RFC 7692 §8: of the message as a whole, so neither where its bomb is nor where packets are cut decides."""
    padding = bytes(at * 31 % 251 for at in range(8000))
    zeros = bytes(2 * MIB)
    message = zeros + padding if bomb_first else padding + zeros
    payload = bomb(2) + TAIL + stored(padding) + b"\x00" if bomb_first else stored(padding) + bomb(2)
    stream = compressed(payload, BINARY)
    fits = len(message) // len(payload) + 1
    delivered(stream, [message], Limits(inflate_ratio=fits), compression)
    ratio = fits - 1
    reason = f"{len(payload)} bytes inflate to over {ratio * len(payload)}, limit {ratio} to 1 above 1 MiB"
    refused(stream, "inflate-ratio", 1009, reason, limits=Limits(inflate_ratio=ratio), compression=compression)


@both
@pytest.mark.parametrize("over", [0, 1])
def test_any_ratio_is_allowed_up_to_one_mebibyte(compression: int, over: int) -> None:
    payload = deflate(bytes(MIB + over))
    stream = compressed(payload, BINARY)
    limits = Limits(inflate_ratio=1)
    if over:
        reason = f"{len(payload)} bytes inflate to over {MIB}, limit 1 to 1 above 1 MiB"
        refused(stream, "inflate-ratio", 1009, reason, limits=limits, compression=compression)
    else:
        delivered(stream, [bytes(MIB)], limits, compression)


@both
def test_ratio_of_fragments_counts_all_frames_so_far(compression: int) -> None:
    """The first fragment pays for the second."""
    parts = fragments([stored(bytes(20_000)), bomb(2)], BINARY, RSV1, NO_KEY)
    delivered(b"".join(parts), [bytes(20_000 + 2 * MIB)], Limits(inflate_ratio=100), compression)


# ---- the objects alone


@pytest.mark.parametrize("takeover", [False, True])
def test_deflater_leaves_out_the_tail(takeover: bool) -> None:
    """RFC 7692 §7.2.1: remove 4 octets that are 0x00 0x00 0xff 0xff from the tail end."""
    deflater = Deflater(DeflateSettings(), 15, takeover)
    inflater = zlib.decompressobj(-15)
    for payload in (b"Hello", b"", b"Hello", bytes(100_000), b""):
        assert inflater.decompress(deflater.compress(payload) + TAIL) == payload


def test_inflater_without_takeover_forgets() -> None:
    inflater = Inflater(LIMITS, takeover=False)
    out = bytearray()
    assert inflater.finish(out, 7, HELLO) is None
    assert out == b"Hello"
    fault = inflater.finish(bytearray(), 5, bytes((0xF2, 0x00, 0x11, 0x00, 0x00)))
    assert fault == Violation(RULES["bad-deflate"], NOT_DEFLATE)


def test_close_behind_a_compressed_message_is_read() -> None:
    delivered(compressed(HELLO) + close_frame(b"\x03\xe8"), ["Hello", Close(1000, "")], compression=FRESH_WINDOW)
