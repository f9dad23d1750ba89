"""The frames of the bus, between a worker and the supervisor's relay: encoding and parsing without I/O.

A frame is a head of 15 bytes, a topic and a payload, numbers in network byte order:

    bytes   meaning
    4       bytes that follow the head: the topic's and the payload's
    1       kind
    1       bytes of the topic, 0 to 255
    1       1 for a payload of text (UTF-8), 0 for bytes
    8       what the publishing worker calls the connection that is left out of the delivery; 0 for none

    kind            from the worker                         from the relay
    PUBLISH         publish the payload                     deliver the payload
    SUBSCRIBE       send what is published from now on      confirmed: everything that is published from now on comes
    UNSUBSCRIBE     send no more
    GAP                                                     something was published on the topic and left out
    TAKEN                                                   how many PUBLISH frames it has taken from this worker
                                                            so far, as 8 bytes of payload
    PROBE           send the payload back                   the payload of a probe
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

__all__ = [
    "GAP",
    "HEAD_SIZE",
    "PROBE",
    "PUBLISH",
    "SUBSCRIBE",
    "TAKEN",
    "UNSUBSCRIBE",
    "Frame",
    "FrameReader",
    "encode_frame",
]

PUBLISH, SUBSCRIBE, UNSUBSCRIBE, GAP, TAKEN, PROBE = range(1, 7)

_HEAD: Final = Struct("!IBBBQ")
HEAD_SIZE: Final = _HEAD.size


class Frame(NamedTuple):
    """One frame. The topic is ASCII, as `asgiws.topics.names` allows it."""

    kind: int
    topic: bytes
    payload: bytes = b""
    is_text: bool = False
    exclude: int = 0


def encode_frame(frame: Frame) -> bytes:
    """Encode a frame. Raises struct.error for a topic of more than 255 bytes or a payload of 4 GiB."""
    kind, topic, payload, is_text, exclude = frame
    return _HEAD.pack(len(topic) + len(payload), kind, len(topic), is_text, exclude) + topic + payload


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
            size, kind, topic_size, is_text, exclude = _HEAD.unpack_from(buffer, start)
            body = start + HEAD_SIZE
            if end - body < size:
                break
            start = body + size
            topic = buffer[body : body + topic_size]
            frames.append(Frame(kind, topic, buffer[body + topic_size : start], bool(is_text), exclude))
        self._buffer = buffer[start:] if start else buffer
        return frames
