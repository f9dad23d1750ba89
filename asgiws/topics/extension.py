"""The ASGI extension `websocket.topics`: what a scope carries, and the events that an application may send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Protocol, Self, TypeVar

from asgiws.topics.history import Position
from asgiws.topics.message import Subscriber, check_name

__all__ = [
    "EXTENSION", "PUBLISH", "SUBSCRIBE", "TOPIC_EVENTS", "UNSUBSCRIBE", "ConnectionSubscriber", "TopicEvent",
    "TopicsExtension", "check_event", "find_extension",
]  # fmt: skip

EXTENSION: Final = "websocket.topics"
"""Its name in `scope["extensions"]`."""

SUBSCRIBE: Final = "websocket.subscribe"
UNSUBSCRIBE: Final = "websocket.unsubscribe"
PUBLISH: Final = "websocket.publish"
TOPIC_EVENTS: Final[Mapping[str, frozenset[str]]] = {
    SUBSCRIBE: frozenset({"type", "topic", "slow"}),
    UNSUBSCRIBE: frozenset({"type", "topic"}),
    PUBLISH: frozenset({"type", "topic", "text", "bytes", "exclude_self"}),
}
"""The keys that each may have."""


class ConnectionSubscriber(Subscriber, Protocol):
    """A WebSocket connection of this server, as a subscriber."""

    async def subscribe(self, topic: str, *, skip_when_slow: bool) -> bool:
        """Return whether the subscription is new. Raises RuntimeError before the accept, OSError after the end."""

    async def resume(self, topic: str, since: Position, *, skip_when_slow: bool) -> bool:
        """Subscribe, and first send what was published after a position; return whether nothing is missing.

        Raises RuntimeError before the accept and for a topic that is subscribed, OSError after the end.
        """

    def unsubscribe(self, topic: str) -> bool:
        """Return whether there was a subscription."""

    def end(self) -> None:
        """Leave no subscription behind."""


class TopicsExtension(dict[str, Any]):
    """The value of `scope["extensions"]["websocket.topics"]`: an empty dict that knows its connection."""

    __slots__ = ()

    @property
    def subscriber(self) -> ConnectionSubscriber:
        """The connection as a subscriber."""
        raise NotImplementedError

    def __deepcopy__(self, memo: object) -> Self:
        return self


_Extension = TypeVar("_Extension", bound=TopicsExtension)


def find_extension(websocket: Any, name: str, kind: type[_Extension]) -> _Extension:
    """Return an extension of a framework's WebSocket, or of a scope. Raises TypeError or RuntimeError."""
    scope = websocket if isinstance(websocket, Mapping) else getattr(websocket, "scope", None)
    if not isinstance(scope, Mapping):
        raise TypeError(f"{type(websocket).__name__}, allowed: a WebSocket that has a scope, or the scope itself")
    extension = (scope.get("extensions") or {}).get(name)
    if not isinstance(extension, kind):
        raise RuntimeError(
            f"a {scope.get('type')} scope without the extension {name}, allowed: the scope of a WebSocket as the "
            "server made it"
        )
    return extension


class TopicEvent(NamedTuple):
    """An event that was checked."""

    kind: str
    topic: str
    skip_when_slow: bool
    data: Any
    """What is published; None for the other events."""
    exclude_self: bool


def check_event(message: Mapping[str, Any]) -> TopicEvent:
    """Check an event. Raises ValueError or TypeError for what it may not have."""
    kind = message["type"]
    unknown = message.keys() - TOPIC_EVENTS[kind]
    if unknown:
        allowed = ", ".join(sorted(TOPIC_EVENTS[kind] - {"type"}))
        raise ValueError(f"{kind} with {', '.join(sorted(unknown))}, allowed: {allowed}")
    slow = message.get("slow", "close")
    if slow not in ("close", "skip"):
        raise ValueError(f"{kind} with slow={slow!r}, allowed: 'close' or 'skip'")
    text, data = message.get("text"), message.get("bytes")
    if kind == PUBLISH and (text is None) == (data is None):
        raise ValueError(f"{kind} with {'neither' if text is None else 'both'} text and bytes, allowed: one of them")
    return TopicEvent(
        kind, check_name(message.get("topic")), slow == "skip", data if text is None else text,
        bool(message.get("exclude_self")),
    )  # fmt: skip
