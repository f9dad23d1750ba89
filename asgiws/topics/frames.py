"""The frames of the bus, between a worker and the supervisor's relay: encoding and parsing without I/O.

A frame is a head of 15 bytes, a topic and a payload, numbers in network byte order:

    bytes   meaning
    4       bytes that follow the head: the topic's and the payload's
    1       kind
    1       bytes of the topic, 0 to 255
    1       1 for a payload of text (UTF-8), 0 for bytes
    8       number: what the worker calls the connection that a message leaves out, or its question; 0 for none

    kind            from the worker                         from the relay
    PUBLISH         publish the payload                     deliver the payload
    SUBSCRIBE       send what is published from now on      confirmed: everything that is published from now on comes;
                                                            the payload is the position of the last kept message, if any
    UNSUBSCRIBE     send no more
    GAP                                                     something was published on the topic and left out; a
                                                            payload says that all of it is kept
    TAKEN                                                   how many PUBLISH and KEEP frames it has taken from this
                                                            worker so far, as 8 bytes of payload
    PROBE           send the payload back                   the payload of a probe
    KEEP            keep the payload and publish it         deliver the payload, which is kept
    HISTORY         what is kept after a position?          a page of that
    COUNT           how many sockets subscribe elsewhere?   as 8 bytes of payload
    REPORT          so many sockets of this worker
                    subscribe, as 8 bytes of payload

Of what is kept, the payload begins with 8 bytes: from the worker the limit and the seconds of `Keep`, each in 4; from
the relay, and in a question for HISTORY, the position: an epoch of 8 hexadecimal digits and 8 bytes of offset. (Eight
zero bytes are no epoch.) A page is 1 for complete or 0, the position of the newest message, the offset of the first in
8 bytes, and then each payload behind its length in 4 bytes.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from asgiws.topics.history import Keep, Past, Position

__all__ = [
    "COUNT", "GAP", "HEAD_SIZE", "HISTORY", "KEEP", "PROBE", "PUBLISH", "REPORT", "SUBSCRIBE", "TAKEN", "UNSUBSCRIBE",
    "Frame", "FrameReader", "decode_keep", "decode_past", "decode_position", "encode_frame", "encode_keep",
    "encode_past", "encode_position",
]  # fmt: skip

PUBLISH, SUBSCRIBE, UNSUBSCRIBE, GAP, TAKEN, PROBE, KEEP, HISTORY, COUNT, REPORT = range(1, 11)

_HEAD: Final = Struct("!IBBBQ")
HEAD_SIZE: Final = _HEAD.size
_KEEP: Final = Struct("!II")
_POSITION: Final = Struct("!8sQ")
_PAGE: Final = Struct("!B8sQQ")
_LENGTH: Final = Struct("!I")


class Frame(NamedTuple):
    """One frame. The topic is ASCII, as `asgiws.topics.message` allows it."""

    kind: int
    topic: bytes
    payload: bytes = b""
    is_text: bool = False
    number: int = 0


def encode_frame(frame: Frame) -> bytes:
    """Encode a frame. Raises struct.error for a topic of more than 255 bytes or a payload of 4 GiB."""
    kind, topic, payload, is_text, number = frame
    return _HEAD.pack(len(topic) + len(payload), kind, len(topic), is_text, number) + topic + payload


class FrameReader:
    """Parses a stream of frames, however it is split."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes; the rest is kept for the next call."""
        frames = []
        buffer = self._buffer + data if self._buffer else data
        start, end = 0, len(buffer)
        while end - start >= HEAD_SIZE:
            size, kind, topic_size, is_text, number = _HEAD.unpack_from(buffer, start)
            body = start + HEAD_SIZE
            if end - body < size:
                break
            start = body + size
            topic = buffer[body : body + topic_size]
            frames.append(Frame(kind, topic, buffer[body + topic_size : start], bool(is_text), number))
        self._buffer = buffer[start:] if start else buffer
        return frames


def encode_keep(keep: Keep) -> bytes:
    """Encode what precedes a payload that is to be kept."""
    return _KEEP.pack(*keep)


def decode_keep(payload: bytes) -> tuple[Keep, bytes]:
    """Return how a payload is to be kept, and the payload."""
    return Keep(*_KEEP.unpack_from(payload)), payload[_KEEP.size :]


def encode_position(at: Position) -> bytes:
    """Encode a position, whose epoch has at most 8 characters. Raises UnicodeEncodeError for others than ASCII."""
    return _POSITION.pack(at.epoch.encode("ascii"), at.offset)


def decode_position(payload: bytes) -> tuple[Position, bytes]:
    """Return the position in front of a payload, and the payload."""
    epoch, offset = _POSITION.unpack_from(payload)
    return Position(epoch.rstrip(b"\0").decode(), offset), payload[_POSITION.size :]


def encode_past(past: Past) -> bytes:
    """Encode a page of what a topic keeps."""
    parts = [_PAGE.pack(past.complete, past.epoch.encode("ascii"), past.top, past.first)]
    for payload in past.payloads:
        parts += _LENGTH.pack(len(payload)), payload
    return b"".join(parts)


def decode_past(page: bytes) -> Past:
    """Return a page of what a topic keeps."""
    complete, epoch, top, first = _PAGE.unpack_from(page)
    place, payloads = _PAGE.size, []
    while place < len(page):
        begin = place + _LENGTH.size
        place = begin + _LENGTH.unpack_from(page, place)[0]
        payloads.append(page[begin:place])
    return Past(epoch.rstrip(b"\0").decode(), top, first, payloads, bool(complete))
