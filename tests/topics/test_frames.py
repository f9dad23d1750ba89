"""The frames of the bus: any split of any frames gives the same frames."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asgiws.topics.frames import (
    GAP,
    HEAD_SIZE,
    PROBE,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Frame,
    FrameReader,
    encode_frame,
)

FRAMES = st.builds(
    Frame,
    st.sampled_from([PUBLISH, SUBSCRIBE, UNSUBSCRIBE, GAP, PROBE]),
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
