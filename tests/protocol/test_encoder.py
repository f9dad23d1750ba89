"""Messages of the application as frames: what an independent client reads, when they are compressed, the memo."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate

from asgiws.protocol.websocket.deflate import DEDICATED, SHARED, Deflater, DeflateSettings
from asgiws.protocol.websocket.encoder import Encoder
from tests.protocol.frame_help import IndependentClient, relaxed

MESSAGES = st.text(max_size=200) | st.binary(max_size=300) | st.sampled_from(["", b"", "x" * 70000, bytes(70000)])
WINDOWS = range(9, 16)
PLAIN = DeflateSettings(min_size_bytes=64)


def encoder(
    *, takeover: bool = False, window_bits: int = 15, min_size: int = 0, level: int = 1, memory_level: int = 8
) -> Encoder:
    """Give an encoder that compresses."""
    chosen = DeflateSettings(
        DEDICATED if takeover else SHARED, level=level, min_size_bytes=min_size, memory_level=memory_level
    )
    return Encoder(chosen, Deflater(chosen, window_bits, takeover), memo=not takeover)


def client(*, takeover: bool = False, window_bits: int = 15) -> IndependentClient:
    """Give a client that inflates with the window negotiated, and not with a larger one."""
    extension: Extension = PerMessageDeflate(
        remote_no_context_takeover=not takeover,
        local_no_context_takeover=True,
        remote_max_window_bits=window_bits,
        local_max_window_bits=15,
    )
    return IndependentClient([extension])


# ---- plain


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        ("", b"\x81\x00"),
        (b"", b"\x82\x00"),
        ("Hello", b"\x81\x05Hello"),
        (b"Hello", b"\x82\x05Hello"),
        ("ä" * 62, b"\x81\x7c" + "ä".encode() * 62),  # 124 bytes of 62 characters
        ("ä" * 63, b"\x81\x7e\x00\x7e" + "ä".encode() * 63),
        (b"x" * 125, b"\x82\x7d" + b"x" * 125),
        (b"x" * 126, b"\x82\x7e\x00\x7e" + b"x" * 126),
        (b"x" * 65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + b"x" * 65536),
    ],
    ids=lambda value: f"{type(value).__name__}-{len(value)}",
)
def test_message_is_one_frame(message: str | bytes, frame: bytes) -> None:
    assert Encoder(PLAIN, None, memo=True).encode(message) == frame


def test_text_with_a_lone_surrogate_raises_and_leaves_the_encoder_as_it_was() -> None:
    plain = Encoder(PLAIN, None, memo=True)
    frame = plain.encode("good")
    with pytest.raises(UnicodeEncodeError):
        plain.encode("\udcff")
    assert (plain.message, plain.frame) == ("good", frame)


@relaxed
@given(st.lists(MESSAGES, max_size=5))
def test_independent_client_reads_what_was_sent(messages: list[str | bytes]) -> None:
    plain = Encoder(PLAIN, None, memo=True)
    assert IndependentClient().messages(b"".join(map(plain.encode, messages))) == messages


# ---- compressed


@pytest.mark.parametrize("size", [63, 64, 65])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_messages_are_compressed_from_the_minimum_size_on(kind: str, size: int) -> None:
    message = "x" * size if kind == "text" else b"x" * size
    frame = encoder(min_size=64).encode(message)
    # RFC 7692 §6: RSV1 says that the message is compressed
    assert bool(frame[0] & 0x40) == (size >= 64)
    assert client().messages(frame) == [message]


def test_the_minimum_size_counts_bytes_and_not_characters() -> None:
    assert encoder(min_size=64).encode("ä" * 32)[0] & 0x40


@pytest.mark.parametrize("window_bits", WINDOWS)
@pytest.mark.parametrize("takeover", [False, True], ids=["shared", "dedicated"])
@pytest.mark.parametrize("level", [1, 9])
def test_independent_client_inflates_with_the_window_negotiated(level: int, takeover: bool, window_bits: int) -> None:
    """RFC 7692 §7.1.2.1: the server must not use a window larger than it agreed to."""
    # Repeats at every distance that a window of 2^15 could use
    messages = [f"{at:05}" * 30 for at in range(300)] + ["".join(f"{at:05}" for at in range(9000))] * 2
    sender = encoder(takeover=takeover, window_bits=window_bits, level=level)
    receiver = client(takeover=takeover, window_bits=window_bits)
    assert receiver.messages(b"".join(map(sender.encode, messages))) == messages


@settings(relaxed, max_examples=60)
@given(
    messages=st.lists(MESSAGES, max_size=6),
    takeover=st.booleans(),
    window_bits=st.sampled_from(WINDOWS),
    level=st.integers(0, 9),
    memory_level=st.integers(1, 9),
    min_size=st.sampled_from([0, 64]),
)
def test_independent_client_inflates_what_was_sent(
    messages: list[str | bytes], takeover: bool, window_bits: int, level: int, memory_level: int, min_size: int
) -> None:
    sender = encoder(
        takeover=takeover, window_bits=window_bits, level=level, memory_level=memory_level, min_size=min_size
    )
    receiver = client(takeover=takeover, window_bits=window_bits)
    assert receiver.messages(b"".join(map(sender.encode, messages))) == messages


def test_frames_of_a_shared_encoder_are_read_alone_and_in_any_order() -> None:
    """RFC 7692 §7.1.1.1: without context takeover no message needs the ones before it."""
    sender = encoder()
    messages = [f"the same words, {at}" * 9 for at in range(20)]
    frames = [sender.encode(message) for message in messages]
    for message, frame in zip(reversed(messages), reversed(frames), strict=True):
        assert client().messages(frame) == [message]


def test_dedicated_encoder_remembers_what_it_sent() -> None:
    sender = encoder(takeover=True)
    message = "".join(chr(97 + at * at % 26) for at in range(300))
    first, second = sender.encode(message), sender.encode(message)
    assert len(second) < len(first) / 3


@pytest.mark.parametrize("takeover", [False, True], ids=["shared", "dedicated"])
def test_empty_messages_are_legal_compressed(takeover: bool) -> None:
    """RFC 7692 §7.2.3.6: an empty message is one empty block."""
    sender, receiver = encoder(takeover=takeover), client(takeover=takeover)
    messages: list[str | bytes] = ["", b"", "", "text", "", b"", b""]
    frames = [sender.encode(message) for message in messages]
    assert all(len(frame) > 2 for frame in frames)
    assert receiver.messages(b"".join(frames)) == messages


def test_what_compression_saved_is_counted() -> None:
    sender = encoder(min_size=64)
    short, long = sender.encode("x" * 63), sender.encode("x" * 1000)
    assert len(short) == 2 + 63
    assert (sender.compressed_from, sender.compressed_to) == (1000, len(long) - 2)


# ---- the memo


@pytest.mark.parametrize("message", ["text", b"binary", "x" * 1000])
def test_a_shared_encoder_remembers_the_last_message_by_identity(message: str | bytes) -> None:
    shared = encoder(min_size=64)
    frame = shared.encode(message)
    assert shared.message is message
    assert shared.frame is frame


def test_an_equal_message_is_another_one() -> None:
    shared = encoder()
    first, second = "".join(["a", "b"]), "".join(["a", "b"])
    shared.encode(first)
    assert shared.message is not second
    shared.encode(second)
    assert shared.message is second


def test_a_dedicated_encoder_remembers_nothing() -> None:
    dedicated = encoder(takeover=True)
    dedicated.encode("x" * 100)
    assert (dedicated.message, dedicated.frame) == (None, b"")


def test_forgetting_lets_go_of_the_message_and_its_frame() -> None:
    plain = Encoder(PLAIN, None, memo=True)
    plain.encode(bytes(2**20))
    plain.forget()
    assert (plain.message, plain.frame) == (None, b"")


# ---- large messages, compressed by another thread


@pytest.mark.parametrize("takeover", [False, True], ids=["shared", "dedicated"])
def test_a_large_message_compressed_alone_fits_between_the_others(takeover: bool) -> None:
    """A window that the peer has and we have not would garble what comes next (RFC 7692 §7.2.1)."""
    sender, receiver = encoder(takeover=takeover), client(takeover=takeover)
    words = "".join(f"{at:05}" for at in range(2000))
    large = words * 40
    frames = [sender.encode(words)]
    alone = sender.encode_alone(large)
    frames.append(sender.encode(words[::-1]))  # sent while another thread compressed the large one
    sender.remember(large, alone)
    frames += [alone, sender.encode(words), sender.encode(words[:5000])]
    assert receiver.messages(b"".join(frames)) == [words, words[::-1], large, words, words[:5000]]


def test_a_large_message_is_remembered_for_the_next_connection() -> None:
    shared, large = encoder(), bytes(2**19)
    frame = shared.encode_alone(large)
    assert shared.message is None
    shared.remember(large, frame)
    assert shared.message is large
    assert shared.frame is frame


@pytest.mark.parametrize("message", ["\u00e9" * 40_000, "a" * 70_000, b"\x00" * 70_000], ids=["text", "ASCII", "bytes"])
def test_a_large_message_in_parts_is_its_frame(message: str | bytes) -> None:
    plain = Encoder(PLAIN, None, memo=True)
    assert b"".join(plain.encode_parts(message)) == plain.encode(message)
    again = plain.encode_parts(message)
    assert again[1] is plain.encode_parts(message)[1]
    plain.forget()
    assert b"".join(plain.encode_parts(message)) == b"".join(again)


def test_large_messages_begin_later_where_they_are_compressed() -> None:
    assert encoder().large_from == 256 * 1024
    assert Encoder(PLAIN, None, memo=True).large_from == 128 * 1024
