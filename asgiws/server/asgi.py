"""Types of ASGI 3 (https://asgi.readthedocs.io), names of an extension, and what `send` raises after the end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

__all__ = [
    "DRAIN_EVENT", "DRAIN_EXTENSION", "DRAIN_SUBSCRIBE", "ASGIApp", "ClientDisconnected", "Event", "Receive", "Scope",
    "Send",
]  # fmt: skip

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# The extension that `asgiws.server.websocket.draining` describes
DRAIN_EXTENSION: Final = "websocket.drain"
DRAIN_SUBSCRIBE: Final = "websocket.drain.subscribe"
DRAIN_EVENT: Final = "websocket.drain"


class ClientDisconnected(OSError):  # noqa: N818 - what happened, and the name that applications know
    """Raised out of `send` when the connection is closed, for http and websocket alike (ASGI H22, W26).

    An application need not catch it: the server expects it and does not log it as an error.
    """
