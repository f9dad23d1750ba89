"""Published messages, and the rules for names of topics and for payloads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

from asgiws.protocol.printable import printable
from asgiws.protocol.websocket.encoder import LARGE_SIZE, Encoder
from asgiws.topics.history import Keep, Past, Position, wrap

__all__ = [
    "NAME_MOST", "AlreadySubscribed", "Message", "Subscriber", "TopicsUnavailable", "check_data", "check_name",
    "kept_message", "messages_of",
]  # fmt: skip

NAME_MOST: Final = 200
"""Characters of the name of a topic."""
_SHOWN_MOST: Final = 60


class Subscriber(Protocol):
    """What a message is delivered to: a WebSocket connection, or a listener in this process."""

    @property
    def encoder(self) -> Encoder | None:
        """What encodes its frames; None for a listener."""

    def deliver(self, message: Message, skip_when_slow: bool, hold: bool) -> bool:
        """Send a message, or `hold` it until `flush`; return whether it was taken. Never wait."""

    def flush(self) -> None:
        """Send what was held."""

    async def deliver_past(self, messages: Iterable[Message]) -> None:
        """Send what was published before, no faster than it is read; return early when the subscriber ends."""

    def on_gap(self, topic: str) -> None:
        """End, because a message of the topic was missed."""


class TopicsUnavailable(OSError):  # noqa: N818 - what happened
    """The bus between the workers is away or stays full, or a listener missed messages; see `asgiws.topics.topic`."""


class AlreadySubscribed(RuntimeError):  # noqa: N818 - what happened
    """What was missed cannot be sent any more: newer messages were."""

    def __init__(self, topic: str) -> None:
        super().__init__(f"since= for {topic}, which is subscribed; allowed: with the first subscription")


class Message:
    """One published message, encoded once for each encoder that connections share."""

    __slots__ = ("at", "data", "exclude", "frames", "is_large", "keep", "ready", "topic")

    def __init__(
        self,
        topic: str,
        data: str | bytes,
        exclude: Subscriber | None = None,
        keep: Keep | None = None,
        at: Position | None = None,
    ) -> None:
        self.topic = topic
        self.data = data
        self.exclude = exclude
        """The connection that does not get it."""
        self.keep = keep
        """How the bus shall keep it; None for a message that is not kept, and on its way to the subscribers."""
        self.at = at
        """Its position on its way to the subscribers; None for a message that is not kept."""
        self.frames: dict[Encoder, bytes] = {}
        self.is_large = len(data) >= LARGE_SIZE
        """Whether compressing it would hold the loop for long."""
        self.ready = not self.is_large
        """Whether what another thread has to compress is done."""

    def frame_for(self, encoder: Encoder) -> bytes:
        """Return the WebSocket frame for the connections of an encoder."""
        frame = self.frames.get(encoder)
        if frame is None:
            frame = encoder.encode(self.data)
            if encoder.shared:
                self.frames[encoder] = frame
        return frame


def kept_message(topic: str, at: Position, text: str, exclude: Subscriber | None = None) -> Message:
    """Return a message as subscribers get it that was published as `text` and is kept."""
    return Message(topic, wrap(at, text), exclude, at=at)


def messages_of(topic: str, past: Past) -> list[Message]:
    """Return the messages of a page of what a topic keeps, as subscribers get them."""
    return [
        kept_message(topic, Position(past.epoch, offset), payload.decode())
        for offset, payload in enumerate(past.payloads, past.first)
    ]


def check_name(name: object) -> str:
    """Return the name of a topic. Raises TypeError or ValueError: 1 to 200 visible ASCII characters are allowed."""
    if not isinstance(name, str):
        raise TypeError(f"topic {type(name).__name__}, allowed: a name as str")
    if not 1 <= len(name) <= NAME_MOST:
        raise ValueError(f"topic name of {len(name)} characters, allowed: 1 to {NAME_MOST}")
    if not (name.isascii() and name.isprintable()) or " " in name:
        raise ValueError(f"topic name '{printable(name, _SHOWN_MOST)}', allowed: visible ASCII characters, no spaces")
    return name


def check_data(data: object, most_bytes: int) -> str | bytes:
    """Return what is to be published. Raises TypeError, or ValueError for more bytes and for lone surrogates."""
    if isinstance(data, bytearray | memoryview):
        data = bytes(data)
    if not isinstance(data, str | bytes):
        raise TypeError(f"published {type(data).__name__}, allowed: str or bytes")
    size = len(data) if isinstance(data, bytes) or data.isascii() else len(data.encode())
    if size > most_bytes:
        raise ValueError(f"published message of {size} bytes, allowed: {most_bytes} (--max-publish-size)")
    return data
