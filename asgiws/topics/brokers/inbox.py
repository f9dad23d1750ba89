"""What comes from a broker, on its way to the hub.

The reader of a session never waits: what one read brought is delivered together when the loop turns. Once more than
`--topic-queue` bytes wait in the hub, messages are left out, and their topics have a gap. What is longer than
`--max-publish-size`, which only a stranger can publish, is dropped and counted.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from asgiws.protocol.printable import printable
from asgiws.topics.brokers.payload import OVERHEAD_BYTES, decode_payload, encode_payload, kept_head
from asgiws.topics.hub import Hub
from asgiws.topics.message import Message, Subscriber, kept_message

__all__ = ["Inbox"]

_LOG: Final = logging.getLogger("asgiws")
_TOPIC_SHOWN_MOST: Final = 60


class Inbox:
    """The messages that a worker reads, and of those that it published the connections that do not get them."""

    def __init__(self, hub: Hub, origin: bytes, queue_most_bytes: int) -> None:
        self._hub = hub
        self._origin = origin
        self._queue_most_bytes = queue_most_bytes
        self._arrived: list[Message] = []
        self._arrived_size = 0
        self._overflowed: set[str] = set()
        """Topics of which messages were left out because the hub was full."""
        self._excluded: dict[int, Subscriber] = {}
        """Connections that do not get a message, by the message's number, until it came back."""
        self._not_kept: set[str] = set()
        """Topics of which a message came that has no position: what is kept of them may not be all that was missed."""
        self.numbered = 0
        """Messages that were given a number."""

    def encode(self, message: Message) -> bytes:
        """Return the payload of a message of this worker; for one that shall be kept, what precedes its position."""
        origin, number = b"", 0
        if message.exclude is not None and self._hub.has(message.topic, message.exclude):
            self.numbered += 1
            self._excluded[self.numbered] = message.exclude
            origin, number = self._origin, self.numbered
        return kept_head(origin, number) if message.keep is not None else encode_payload(message.data, origin, number)

    def forget_numbers(self, most: int | None = None) -> None:
        """Forget the numbers of messages that have come back, or will not: those up to `most`, or all."""
        for number in [number for number in self._excluded if most is None or number <= most]:
            del self._excluded[number]

    def take(self, topic: str, payload: bytes) -> None:
        """Take a message."""
        hub = self._hub
        hub.received += 1
        if len(payload) > hub.publish_most_bytes + OVERHEAD_BYTES:
            self._drop(topic, len(payload))
            return
        data, origin, number, at = decode_payload(payload)
        exclude = self._excluded.pop(number, None) if origin == self._origin else None
        if at is None or isinstance(data, bytes):
            self._not_kept.add(topic)
            message = Message(topic, data, exclude)
        else:
            message = kept_message(topic, at, data, exclude)
        size, waiting = len(message.data), hub.waiting_size + self._arrived_size
        # A message that is longer than the queue passes when nothing else waits.
        if topic in self._overflowed or 0 < waiting > self._queue_most_bytes - size:
            self._overflowed.add(topic)
            return
        if not self._arrived:
            asyncio.get_running_loop().call_soon(self._hand_over)
        self._arrived.append(message)
        self._arrived_size += size

    def on_drained(self) -> None:
        """End the subscribers of what was left out, as they have got what came before."""
        if self._overflowed and not self._arrived:
            overflowed, self._overflowed = self._overflowed, set()
            self.report_gaps(overflowed)

    def report_gaps(self, topics: set[str]) -> None:
        """Let the hub fill the gaps of topics that keep every message, as far as is known, or end subscribers."""
        self._hub.on_gap(*(topics - self._not_kept))
        self._hub.on_gap(*(topics & self._not_kept), kept=False)

    def forget_topic(self, topic: str) -> None:
        """Know nothing more of a topic."""
        self._not_kept.discard(topic)

    def _hand_over(self) -> None:
        arrived, self._arrived, self._arrived_size = self._arrived, [], 0
        self._hub.deliver(arrived)
        if not self._hub.waiting_size:
            self.on_drained()

    def _drop(self, topic: str, size: int) -> None:
        hub = self._hub
        if not hub.oversized:
            _LOG.warning(
                "a message of %d bytes for topic %s was dropped, allowed: %d (--max-publish-size); further ones are "
                "only counted", size, printable(topic, _TOPIC_SHOWN_MOST), hub.publish_most_bytes,
            )  # fmt: skip
        hub.oversized += 1
