"""What topics keep of their messages: for clients that come back, and for workers that missed some.

Each topic that keeps messages has a ring of them. A message has a position, `epoch:offset`: offsets count from 1
without a hole, and a new ring, as after a restart, has another epoch. Messages leave the ring by the count and the age
that their publisher gave. Age is checked when the ring is used, and now and then, without a timer.

All rings together keep to one limit of bytes. Beyond it, the topics to which nothing was published for longest lose
theirs. No I/O here; the ring lives where all messages of a topic pass: in the hub of a single process, in the
supervisor's relay, or under another server in the process. A broker keeps its own.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from itertools import islice
from json import JSONEncoder
from typing import Final, NamedTuple

from asgiws.protocol.limits import KIB, MIB

__all__ = ["HISTORY_MOST_BYTES", "START", "UNKNOWN", "History", "Keep", "Past", "Position", "parse_position", "wrap"]

HISTORY_MOST_BYTES: Final = 64 * MIB
"""Limit of all that is kept where no server says another one."""
_PAGE_MOST_BYTES: Final = 256 * KIB
_PAGE_MOST_COUNT: Final = 500
# What Python needs beside the payload, by sys.getsizeof, for a message and for a topic with its name
_MESSAGE_BYTES: Final = 150
_RING_BYTES: Final = 1100
# How many topics one call of `expire` looks at.
_EXPIRE_COUNT: Final = 1000
_EPOCH_BYTES: Final = 4
_OFFSET_MOST_DIGITS: Final = 18
_EPOCH_MOST: Final = 32

_encode_json: Final = JSONEncoder(ensure_ascii=False).encode


class Keep(NamedTuple):
    """How a message is kept: among the last `limit` of its topic, for `ttl_s` seconds."""

    limit: int
    ttl_s: int


class Position(NamedTuple):
    """The place of a message in its topic."""

    epoch: str
    offset: int

    def __str__(self) -> str:
        return f"{self.epoch}:{self.offset}"

    def is_after(self, other: Position) -> bool:
        """Return whether this comes after another; also true for another epoch."""
        return self.epoch != other.epoch or self.offset > other.offset


START: Final = Position("", 0)
"""Before all that is kept."""
UNKNOWN: Final = Position("", 1)
"""A position that no message has: all that is kept follows it, and something is missing between."""


def parse_position(text: str) -> Position:
    """Return the position that a client has sent, UNKNOWN for what is none."""
    epoch, _, offset = text.partition(":")
    well_formed = (
        epoch.isascii() and epoch.isalnum() and len(epoch) <= _EPOCH_MOST
        and offset.isascii() and offset.isdecimal() and len(offset) <= _OFFSET_MOST_DIGITS
    )  # fmt: skip
    return Position(epoch, int(offset)) if well_formed else UNKNOWN


def wrap(at: Position, text: str) -> str:
    """Return the text that subscribers get: a JSON object with the position and what was published, as a string."""
    return f'{{"at":"{at.epoch}:{at.offset}","data":{_encode_json(text)}}}'


class Past(NamedTuple):
    """A page of what a topic keeps: contiguous messages, of which the last may not be the newest."""

    epoch: str
    """Empty for a topic that keeps nothing and never did."""
    top: int
    """The offset of the newest message, kept or not; 0 for none."""
    first: int
    """The offset of the first of `payloads`; where there are none, of the next message."""
    payloads: list[bytes]
    """What was published, as UTF-8."""
    complete: bool
    """Whether nothing is missing between the position that was asked for and the first of these."""

    @property
    def last(self) -> Position:
        """The position up to which this goes; START for a topic that never kept anything."""
        return Position(self.epoch, self.first + len(self.payloads) - 1)


class _Ring:
    """The messages that one topic keeps."""

    __slots__ = ("epoch", "kept", "top")

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(_EPOCH_BYTES)
        self.top = 0
        self.kept: deque[tuple[float, bytes]] = deque()
        """When each expires, and its payload. The last has the offset `top`."""


class History:
    """The rings of all topics that keep messages."""

    def __init__(self, most_bytes: int = HISTORY_MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        self.most_bytes = most_bytes
        self.size_bytes = 0
        self._clock = clock
        self._rings: OrderedDict[str, _Ring] = OrderedDict()
        """The topic that was published to last comes last."""
        self._to_look_at: list[str] = []
        """Topics that `expire` has not reached in its present round."""

    def append(self, topic: str, keep: Keep, payload: bytes) -> Position:
        """Keep a message; return its position."""
        ring = self._rings.get(topic)
        if ring is None:
            ring = self._rings[topic] = _Ring()
            self.size_bytes += _RING_BYTES + len(topic)
        else:
            self._rings.move_to_end(topic)
        ring.top += 1
        ring.kept.append((self._clock() + keep.ttl_s, payload))
        self.size_bytes += _MESSAGE_BYTES + len(payload)
        while len(ring.kept) > keep.limit:
            self._drop_first(ring)
        while self.size_bytes > self.most_bytes and (len(self._rings) > 1 or ring.kept):
            self._make_room()
        return Position(ring.epoch, ring.top)

    def position(self, topic: str) -> Position:
        """Return the position of the newest message; START for a topic that never kept one."""
        ring = self._rings.get(topic)
        return START if ring is None else Position(ring.epoch, ring.top)

    def read(self, topic: str, since: Position) -> Past:
        """Return what is kept after a position; the oldest if it is too much for one page."""
        ring = self._rings.get(topic)
        if ring is None:
            return Past("", 0, 1, [], since == START)
        self._expire(ring)
        oldest = ring.top - len(ring.kept) + 1
        known = since.epoch == ring.epoch and oldest - 1 <= since.offset <= ring.top
        first, complete = since.offset + 1 if known else oldest, known or since == START
        page: list[bytes] = []
        size = 0
        for _, payload in islice(ring.kept, first - oldest, first - oldest + _PAGE_MOST_COUNT):
            size += len(payload)
            if page and size > _PAGE_MOST_BYTES:
                break
            page.append(payload)
        return Past(ring.epoch, ring.top, first, page, complete)

    def expire(self) -> None:
        """Drop what is too old, in some topics of all; to be called every second."""
        if not self._to_look_at:
            self._to_look_at = list(self._rings)
        for _ in range(min(_EXPIRE_COUNT, len(self._to_look_at))):
            ring = self._rings.get(self._to_look_at.pop())
            if ring is not None:
                self._expire(ring)

    def _expire(self, ring: _Ring) -> None:
        now = self._clock()
        while ring.kept and ring.kept[0][0] <= now:
            self._drop_first(ring)

    def _drop_first(self, ring: _Ring) -> None:
        _, payload = ring.kept.popleft()
        self.size_bytes -= _MESSAGE_BYTES + len(payload)

    def _make_room(self) -> None:
        """Drop the oldest message of the topic that was published to longest ago, or that topic when it keeps none."""
        topic, ring = next(iter(self._rings.items()))
        if ring.kept:
            self._drop_first(ring)
        else:
            del self._rings[topic]
            self.size_bytes -= _RING_BYTES + len(topic)
