"""The types of ASGI 3 (https://asgi.readthedocs.io), and the exception that `send` raises when the client has gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["ASGIApp", "ClientDisconnected", "Event", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class ClientDisconnected(OSError):  # noqa: N818 - what happened, and the name that applications know
    """Raised out of `send` when the connection is closed, for http and websocket alike (ASGI H22, W26).

    An application need not catch it: the server expects it and does not log it as an error.
    """
