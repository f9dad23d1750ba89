"""What a message is on a broker's channel."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asgiws.topics.brokers.payload import MARK, OVERHEAD_BYTES, Payload, decode_payload, encode_payload, kept_head
from asgiws.topics.history import Position

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
IDS = st.just((b"", 0)) | st.tuples(st.binary(min_size=8, max_size=8), st.integers(0, 2**63))


@given(st.one_of(TEXT, st.binary()), IDS)
@example("", (b"", 0))
@example(MARK, (b"", 0))
def test_what_is_published_is_what_arrives(data: str | bytes, ids: tuple[bytes, int]) -> None:
    payload = encode_payload(data, *ids)
    assert decode_payload(payload) == Payload(data, *ids)
    assert len(payload) <= len(data.encode() if isinstance(data, str) else data) + OVERHEAD_BYTES


@given(TEXT, st.integers(0, 10**18 - 1), IDS)
@example(" :5", 1, (b"", 0))
def test_a_kept_text_arrives_with_its_position(text: str, offset: int, ids: tuple[bytes, int]) -> None:
    at = Position("1763750000000", offset)
    payload = kept_head(*ids) + f"{at} {text}".encode()
    assert decode_payload(payload) == Payload(text, *ids, at)
    assert len(payload) <= len(text.encode()) + OVERHEAD_BYTES


@given(TEXT)
def test_text_of_another_program_is_text(text: str) -> None:
    assert decode_payload(text.encode()) == Payload(text)
    assert encode_payload(text) == text.encode()


@given(st.binary())
@example(b"\xff")
@example(MARK + b"t\xff")
@example(MARK + b"T")
@example(MARK + b"k1:1")
@example(MARK + b"k1:1 \xff")
@example(MARK + b"k:: text")
@example(MARK + b"?")
def test_any_bytes_are_a_message(payload: bytes) -> None:
    data = decode_payload(payload).data
    if isinstance(data, str):
        assert payload.endswith(data.encode())
    else:
        assert payload.endswith(data)


@pytest.mark.parametrize("payload", [b"\xff\xd8\xff\xe0 a picture", b"\xff\xfea\x00", b"\x80", MARK, MARK + b"Bshort"])
def test_bytes_of_another_program_are_bytes(payload: bytes) -> None:
    assert decode_payload(payload) == Payload(payload)
