"""The frames of the bus: any split of any frames gives the same frames."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.topics.frames import (
    COUNT,
    GAP,
    HEAD_SIZE,
    HISTORY,
    KEEP,
    PROBE,
    PUBLISH,
    REPORT,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Frame,
    FrameReader,
    decode_keep,
    decode_past,
    decode_position,
    encode_frame,
    encode_keep,
    encode_past,
    encode_position,
)
from asgiws.topics.history import Keep, Past, Position

FRAMES = st.builds(
    Frame,
    st.sampled_from([PUBLISH, SUBSCRIBE, UNSUBSCRIBE, GAP, PROBE, KEEP, HISTORY, COUNT, REPORT]),
    st.binary(max_size=255),
    st.binary(max_size=2000),
    st.booleans(),
    st.integers(0, 2**64 - 1),
)


@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 20_000), max_size=12))
def test_any_split_gives_the_same_frames(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(map(encode_frame, frames))
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    reader = FrameReader()
    found = [frame for start, end in itertools.pairwise(places) for frame in reader.feed(stream[start:end])]
    assert found == frames


def test_a_part_of_a_frame_gives_nothing_until_it_is_whole() -> None:
    data = encode_frame(Frame(PUBLISH, b"room:1", b"hello", True))
    reader = FrameReader()
    assert [frame for byte in data[:-1] for frame in reader.feed(bytes([byte]))] == []
    assert reader.feed(data[-1:]) == [Frame(PUBLISH, b"room:1", b"hello", True)]


POSITIONS = st.builds(Position, st.text("0123456789abcdef", max_size=8), st.integers(0, 2**64 - 1))
PASTS = st.builds(
    Past,
    st.text("0123456789abcdef", max_size=8),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.lists(st.binary(max_size=300), max_size=20),
    st.booleans(),
)
KEEPS = st.builds(Keep, st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))


@given(PASTS, POSITIONS, KEEPS, st.binary(max_size=300))
def test_what_is_kept_comes_back_as_it_was(past: Past, at: Position, keep: Keep, payload: bytes) -> None:
    assert decode_past(encode_past(past)) == past
    assert decode_position(encode_position(at) + payload) == (at, payload)
    assert decode_keep(encode_keep(keep) + payload) == (keep, payload)


def test_frame_is_laid_out_as_documented() -> None:
    data = encode_frame(Frame(PUBLISH, b"a", b"bc", True, 7))
    assert data == (
        b"\x00\x00\x00\x03"  # topic and payload
        b"\x01"  # PUBLISH
        b"\x01"  # bytes of the topic
        b"\x01"  # text
        b"\x00\x00\x00\x00\x00\x00\x00\x07"  # left out
        b"abc"
    )
    assert HEAD_SIZE == 15


def test_topic_that_is_too_long_cannot_be_encoded() -> None:
    with pytest.raises(Exception, match="<= 255"):
        encode_frame(Frame(PUBLISH, b"a" * 256))
