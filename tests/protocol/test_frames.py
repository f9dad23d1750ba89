"""Frames that a server sends (RFC 6455 §5.2), and those of an independent client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from asgiws.protocol.websocket.closing import Close
from asgiws.protocol.websocket.frames import (
    BINARY,
    BINARY_HEADS,
    CLOSE,
    CONTINUATION,
    FIN,
    OPCODE_NAMES,
    PING,
    PONG,
    TEXT,
    TEXT_HEADS,
    encode_frame,
    frame_head,
)
from tests.protocol.frame_help import IndependentClient, cut, delivered, relaxed, run

SIZES = (0, 1, 2, 124, 125, 126, 127, 255, 256, 65534, 65535, 65536, 65537, 1_000_000)


def test_examples_of_the_rfc() -> None:
    """RFC 6455 §5.7, those that a server sends."""
    assert encode_frame(FIN | TEXT, b"Hello") == b"\x81\x05Hello"
    assert encode_frame(TEXT, b"Hel") == b"\x01\x03Hel"
    assert encode_frame(FIN | CONTINUATION, b"lo") == b"\x80\x02lo"
    assert encode_frame(FIN | PING, b"Hello") == b"\x89\x05Hello"
    assert encode_frame(FIN | BINARY, bytes(256)) == b"\x82\x7e\x01\x00" + bytes(256)
    assert encode_frame(FIN | BINARY, bytes(65536)) == b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + bytes(65536)


@pytest.mark.parametrize(
    ("size", "length"),
    [
        (0, b"\x00"),
        (125, b"\x7d"),
        (126, b"\x7e\x00\x7e"),
        (127, b"\x7e\x00\x7f"),
        (65535, b"\x7e\xff\xff"),
        (65536, b"\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
        (2**63 - 1, b"\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"),
    ],
)
def test_length_takes_the_fewest_bytes(size: int, length: bytes) -> None:
    """RFC 6455 §5.2: the minimal number of bytes MUST be used to encode the length."""
    assert frame_head(FIN | TEXT, size) == b"\x81" + length


@pytest.mark.parametrize("size", SIZES)
def test_a_server_masks_no_frame(size: int) -> None:
    """RFC 6455 §5.1: a server MUST NOT mask any frames that it sends to the client."""
    assert frame_head(FIN | BINARY, size)[1] & 0x80 == 0


def test_tables_of_short_heads_equal_the_encoder() -> None:
    sizes = range(126)
    assert [frame_head(FIN | TEXT, size) for size in sizes] == list(TEXT_HEADS)
    assert [frame_head(FIN | BINARY, size) for size in sizes] == list(BINARY_HEADS)


def test_opcodes_are_those_of_the_rfc() -> None:
    """RFC 6455 §11.8."""
    assert {int(opcode) for opcode in Opcode} == set(OPCODE_NAMES)
    assert (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG) == (0, 1, 2, 8, 9, 10)


# ---- an independent client


@pytest.mark.parametrize("size", SIZES)
def test_independent_client_reads_frames_of_any_size(size: int) -> None:
    payload = bytes(at % 251 for at in range(size))
    (frame,) = IndependentClient().receive(encode_frame(FIN | BINARY, payload))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.BINARY, True, payload)


@pytest.mark.parametrize("size", SIZES)
def test_frames_of_an_independent_client_are_its_messages(size: int) -> None:
    client = IndependentClient()
    binary = bytes(at % 251 for at in range(size))
    text = binary.hex()[:size]
    stream = client.send(text) + client.send(binary)
    assert run([stream]).items == [text, binary]
    assert run([stream], fast=False).items == [text, binary]


@relaxed
@given(
    messages=st.lists(st.tuples(st.text(max_size=60) | st.binary(max_size=200), st.integers(1, 5)), max_size=6),
    places=st.lists(st.integers(0, 1500), max_size=8),
)
def test_fragments_of_an_independent_client_are_its_messages(
    messages: list[tuple[str | bytes, int]], places: list[int]
) -> None:
    client = IndependentClient()
    stream = b"".join(client.send(message, pieces) for message, pieces in messages)
    assert run(cut(stream, places)).items == [message for message, _ in messages]


def test_controls_of_an_independent_client_are_read() -> None:
    client = IndependentClient()
    outcome = run([client.ping(b"one") + client.send("text") + client.ping(b"") + client.close(4000, "später")])
    assert outcome.items == ["text", Close(4000, "später")]
    assert outcome.pings == [b"one", b""]


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 4999])
def test_close_of_an_independent_client_keeps_code_and_reason(code: int) -> None:
    delivered(IndependentClient().close(code, "so long"), [Close(code, "so long")])
