"""The receiver: what a client may send, and each way in which it can break RFC 6455 §5 to §8.

`delivered` and `refused` feed every stream in one packet, octet by octet, and past the fast path.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from asgiws.protocol import errors
from asgiws.protocol.errors import RULES, Rule, Violation
from asgiws.protocol.websocket import closing, deflate, receiver
from asgiws.protocol.websocket.frames import BINARY, CONTINUATION, PING, PONG, TEXT
from tests.protocol.frame_help import (
    KEY,
    NO_KEY,
    Connection,
    client_frame,
    close_frame,
    delivered,
    fragments,
    octets,
    refused,
    run,
)

BAD_TEXT = "text that is not UTF-8, allowed: UTF-8"

# ---- messages


def test_text_is_str_and_binary_is_bytes() -> None:
    """RFC 6455 §5.6."""
    delivered(client_frame("Grüße".encode()) + client_frame(b"\x00\xff", BINARY), ["Grüße", b"\x00\xff"])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_length_in_each_of_its_forms_is_read(size: int) -> None:
    """RFC 6455 §5.2: 7, 7+16 or 7+64 bits."""
    payload = bytes(at % 251 for at in range(size))
    delivered(client_frame(payload, BINARY) + client_frame(b"after"), [payload, "after"])


@pytest.mark.parametrize("text", ["a\r\nb\rc\n", "\u2028\x85\x00", "日本語" * 30, "ascii, ä, 日, 😀"])
def test_text_is_what_was_sent_wherever_it_is_cut(text: str) -> None:
    """RFC 6455 §8.1: UTF-8, with nothing translated; also where the bytes are kept and decoded in the end."""
    payload = text.encode()
    delivered(client_frame(payload), [text])
    delivered(b"".join(fragments([payload[:2], payload[2:]])), [text])


@pytest.mark.parametrize("key", [NO_KEY, b"\xff" * 4, bytes((1, 0, 0, 0)), KEY])
def test_any_key_unmasks(key: bytes) -> None:
    """RFC 6455 §5.3: the masking key is any 32-bit value."""
    delivered(client_frame(b"0123456789abcdef", key=key), ["0123456789abcdef"])


@pytest.mark.parametrize("cuts", [(1,), (3,), (1, 2), (2, 2), (0, 1), (0, 0), (1, 1, 1), (4, 9)])
def test_fragments_are_one_message(cuts: tuple[int, ...]) -> None:
    """RFC 6455 §5.4: a message may be cut inside a character, and fragments may be empty."""
    payload = "häßlich 😀".encode()
    pieces, rest = [], payload
    for place in cuts:
        pieces.append(rest[:place])
        rest = rest[place:]
    delivered(b"".join(fragments([*pieces, rest, b""])), ["häßlich 😀"])


def test_controls_between_fragments_and_inside_a_burst_are_read() -> None:
    """RFC 6455 §5.4: control frames MAY be injected in the middle of a fragmented message."""
    first, second = fragments([b"one ", b"message"])
    pings = [client_frame(bytes((at,)) * at, PING) for at in (1, 125)]
    stream = pings[0] + first + pings[1] + client_frame(b"late", PONG) + second + client_frame(b"latest", PONG)
    outcome = run(octets(stream))
    assert outcome.items == ["one message"]
    assert outcome.pings == [b"\x01", bytes((125,)) * 125]
    assert (outcome.pong, outcome.controls_in, outcome.messages_in) == (b"latest", 4, 1)


def test_octets_messages_and_controls_are_counted() -> None:
    stream = client_frame(b"text") + client_frame(b"", PING) + b"".join(fragments([b"a", b"b"])) + close_frame(b"")
    outcome = run([stream])
    assert (outcome.bytes_in, outcome.messages_in, outcome.controls_in) == (len(stream), 2, 2)


def test_compression_begins_where_it_was_agreed() -> None:
    connection = Connection()
    connection.receiver.begin(receiver.FRESH_WINDOW)
    connection.feed(client_frame(b"\xf2\x48\xcd\xc9\xc9\x07\x00", rsv=4))
    assert connection.items == ["Hello"]


# ---- frames that break a rule


@pytest.mark.parametrize(
    ("opcode", "name"), [(0, "continuation"), (1, "text"), (2, "binary"), (8, "Close"), (9, "ping")]
)
def test_unmasked_frame_closes_1002(opcode: int, name: str) -> None:
    """RFC 6455 §5.1: the server MUST close the connection upon receiving a frame that is not masked."""
    broken = bytes((
        0x80 | opcode,  # FIN
        0x02,  # not masked, 2 bytes
        0x03, 0xE8,
    ))  # fmt: skip
    refused(broken, "unmasked-frame", 1002, f"unmasked {name} frame, allowed: masked frames")


@pytest.mark.parametrize("rsv", range(1, 8))
def test_reserved_bits_close_1002(rsv: int) -> None:
    """RFC 6455 §5.2: MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."""
    broken = bytes((
        0x80 | rsv << 4 | 0x1,  # FIN, RSV bits, text
        0x80,  # masked, 0 bytes
        0x37, 0xFA, 0x21, 0x3D,  # key
    ))  # fmt: skip
    refused(broken, "reserved-bits", 1002, f"RSV bits {rsv:03b} in a frame of opcode 1, allowed: 000")


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcode_closes_1002(opcode: int) -> None:
    """RFC 6455 §5.2: if an unknown opcode is received, the receiving endpoint MUST fail the connection."""
    broken = bytes((
        0x80 | opcode,  # FIN
        0x80,  # masked, 0 bytes
        0x37, 0xFA, 0x21, 0x3D,  # key
    ))  # fmt: skip
    refused(broken, "reserved-opcode", 1002, f"opcode {opcode}, allowed: 0, 1, 2, 8, 9, 10")


@pytest.mark.parametrize("size", [0, 1, 125])
def test_length_in_two_bytes_where_one_does_closes_1002(size: int) -> None:
    """RFC 6455 §5.2: the minimal number of bytes MUST be used to encode the length."""
    broken = bytes((
        0x81,  # FIN, text
        0xFE,  # masked, length in 2 bytes
        0x00, size,  # length
        0x00, 0x00, 0x00, 0x00,  # key
    )) + b"x" * size  # fmt: skip
    refused(broken, "bad-length", 1002, f"length {size} in 2 bytes, allowed: the fewest bytes, below 2^63")


@pytest.mark.parametrize("size", [0, 125, 126, 65535])
def test_length_in_eight_bytes_where_fewer_do_closes_1002(size: int) -> None:
    """RFC 6455 §5.2."""
    broken = bytes((
        0x82,  # FIN, binary
        0xFF,  # masked, length in 8 bytes
        0, 0, 0, 0, 0, 0, size >> 8, size & 0xFF,  # length
        0x00, 0x00, 0x00, 0x00,  # key
    )) + b"x" * size  # fmt: skip
    refused(broken, "bad-length", 1002, f"length {size} in 8 bytes, allowed: the fewest bytes, below 2^63")


@pytest.mark.parametrize("size", [2**63, 2**64 - 1])
def test_length_of_2_to_the_63_closes_1002(size: int) -> None:
    """RFC 6455 §5.2: the most significant bit MUST be 0."""
    broken = b"\x82\xff" + size.to_bytes(8, "big")
    refused(broken, "bad-length", 1002, f"length {size} in 8 bytes, allowed: the fewest bytes, below 2^63")


@pytest.mark.parametrize(("opcode", "name"), [(8, "Close"), (9, "ping"), (10, "pong")])
@pytest.mark.parametrize("short", [126, 127])
def test_control_frame_over_125_bytes_closes_1002(opcode: int, name: str, short: int) -> None:
    """RFC 6455 §5.5: all control frames MUST have a payload length of 125 bytes or less."""
    broken = bytes((
        0x80 | opcode,  # FIN
        0x80 | short,  # masked, length in 2 or 8 bytes
    ))  # fmt: skip
    refused(broken, "control-too-long", 1002, f"{name} frame of over 125 bytes, limit 125")


@pytest.mark.parametrize(("opcode", "name"), [(8, "Close"), (9, "ping"), (10, "pong")])
def test_fragmented_control_frame_closes_1002(opcode: int, name: str) -> None:
    """RFC 6455 §5.5: control frames MUST NOT be fragmented."""
    broken = bytes((
        opcode,  # no FIN
        0x80,  # masked, 0 bytes
        0x37, 0xFA, 0x21, 0x3D,  # key
    ))  # fmt: skip
    refused(broken, "fragmented-control", 1002, f"fragmented {name} frame, allowed: whole ones")


@pytest.mark.parametrize("first", [0x00, 0x80], ids=["more-follows", "final"])
def test_continuation_of_nothing_closes_1002(first: int) -> None:
    """RFC 6455 §5.4: a continuation frame follows a frame with FIN clear."""
    broken = bytes((
        first,  # continuation
        0x81,  # masked, 1 byte
        0x37, 0xFA, 0x21, 0x3D,  # key
        0x41,
    ))  # fmt: skip
    reason = "continuation with no message begun, allowed: text, binary"
    refused(broken, "unexpected-continuation", 1002, reason)


def test_continuation_behind_a_complete_fragmented_message_closes_1002() -> None:
    """RFC 6455 §5.4: FIN ends the message."""
    stream = b"".join([*fragments([b"be", b"fore"]), client_frame(b"more", CONTINUATION)])
    reason = "continuation with no message begun, allowed: text, binary"
    delivered(stream, ["before", Violation(RULES["unexpected-continuation"], reason)])


@pytest.mark.parametrize(("opcode", "name"), [(TEXT, "text"), (BINARY, "binary")])
@pytest.mark.parametrize("size", [0, 3])
def test_new_message_inside_a_fragmented_one_closes_1002(opcode: int, name: str, size: int) -> None:
    """RFC 6455 §5.4: the fragments of one message MUST NOT be interleaved between those of another."""
    stream = client_frame(b"frag"[:size], fin=False) + client_frame(b"new", opcode)
    reason = f"{name} frame inside a fragmented message, allowed: continuation"
    refused(stream, "expected-continuation", 1002, reason)


# ---- text that is not UTF-8

NOT_UTF8 = {
    "lone-continuation": b"ok\x80",
    "overlong-of-two": b"ok\xc0\xaf",
    "overlong-of-three": b"ok\xe0\x9f\xbf",
    "overlong-of-four": b"ok\xf0\x8f\xbf\xbf",
    "surrogate": b"ok\xed\xa0\x80",
    "pair-of-surrogates": b"ok\xed\xa0\xbd\xed\xb8\x80",
    "over-10ffff": b"ok\xf4\x90\x80\x80",
    "lead-of-five": b"ok\xf8\x88\x80\x80\x80",
    "ff": b"ok\xff",
    "continuation-missing": b"ok\xc3(",
    "cut-after-one-of-two": b"ok\xc3",
    "cut-after-two-of-three": b"ok\xe2\x82",
    "cut-after-three-of-four": b"ok\xf0\x9f\x98",
}


@pytest.mark.parametrize("payload", NOT_UTF8.values(), ids=NOT_UTF8)
def test_text_that_is_not_utf8_closes_1007(payload: bytes) -> None:
    """RFC 6455 §8.1: an endpoint MUST fail the connection when text is not valid UTF-8."""
    refused(client_frame(payload), "bad-utf8", 1007, BAD_TEXT)


@pytest.mark.parametrize("payload", NOT_UTF8.values(), ids=NOT_UTF8)
@pytest.mark.parametrize("place", [0, 2, 3, -1])
def test_fragmented_text_that_is_not_utf8_closes_1007(payload: bytes, place: int) -> None:
    """RFC 6455 §8.1: of the message and not of its frames."""
    refused(b"".join(fragments([payload[:place], payload[place:]])), "bad-utf8", 1007, BAD_TEXT)


def test_text_that_is_not_utf8_is_refused_in_its_first_fragment() -> None:
    """RFC 6455 §8.1, as Autobahn's 6.4 has it: not only once the message is complete."""
    refused(client_frame(b"ok\xff", fin=False), "bad-utf8", 1007, BAD_TEXT)


def test_text_that_is_not_utf8_is_refused_inside_its_frame() -> None:
    """The frame says that 1,000 bytes follow."""
    connection = Connection()
    connection.feed(client_frame(b"ok\xff", length=1000))
    assert connection.items == [Violation(RULES["bad-utf8"], BAD_TEXT)]


def test_binary_that_is_not_utf8_is_a_message() -> None:
    delivered(client_frame(b"\xff\xfe", BINARY), [b"\xff\xfe"])


def test_bytes_left_by_a_binary_message_are_not_taken_for_text() -> None:
    delivered(b"".join(fragments([b"\xc3", b"\xc3"], BINARY)) + client_frame(b"ok"), [b"\xc3\xc3", "ok"])


# ---- this file


def test_every_rule_that_these_modules_name_has_a_test() -> None:
    sources = "".join(inspect.getsource(module) for module in (receiver, closing, deflate))
    rules: list[Rule] = [getattr(errors, name) for name in set(re.findall(r"errors\.([A-Z][A-Z0-9_]+)", sources))]
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_[cdr]*.py"))
    assert len(rules) > 15
    assert [rule.name for rule in rules if f'"{rule.name}", {rule.code}' not in tests] == []
