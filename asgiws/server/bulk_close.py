"""Closing many WebSockets of a server: chosen by path, client and share, and spread evenly over time.

An operator moves load this way, for example to servers that were added: the clients reconnect wherever there is room.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from asgiws.protocol.trusted_networks import TrustedNetworks, check_network
from asgiws.protocol.websocket.closing import Close, is_close_code
from asgiws.schedule import spread
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.websocket.connection import WebSocketConnection

__all__ = ["BulkClose"]

_OVER_MOST_S: Final = 86400.0
# RFC 6455 §5.5: a control frame carries 125 bytes, two of which are the code
_REASON_MOST_BYTES: Final = 123


@dataclass(frozen=True)
class BulkClose:
    """Which WebSockets to close, and how. Raises ValueError with one line that says what is allowed."""

    path: str = ""
    """As the client sent it, without its query, or the beginning of one followed by `*`; empty for all."""
    client: str = ""
    """An address, a network such as 10.0.0.0/8, or `unix`; several are separated by commas; empty for all."""
    percent: int = 100
    """The share of those that match, from 1 to 100."""
    over_s: float = 0.0
    """The time over which they are spread."""
    code: int = 1012
    reason: str = "service restart"

    def __post_init__(self) -> None:
        if self.path and (not self.path.startswith(("/", "*")) or "*" in self.path[:-1]):
            raise ValueError(f"path {self.path!r} was given, allowed: a path such as /chat, or a start such as /chat/*")
        if (allowed := check_network(self.client)) is not None:
            raise ValueError(f"client {self.client!r} was given, allowed: {allowed}")
        if not 1 <= self.percent <= 100:
            raise ValueError(f"{self.percent} percent was given, allowed: 1 to 100")
        if not 0 <= self.over_s <= _OVER_MOST_S:
            raise ValueError(f"a time of {self.over_s:g} s was given, allowed: 0 to {_OVER_MOST_S:g} s")
        if not is_close_code(self.code):
            raise ValueError(f"code {self.code} was given, allowed: 1000-1003, 1007-1014, 3000-4999")
        if (size := len(self.reason.encode())) > _REASON_MOST_BYTES:
            raise ValueError(f"a reason of {size} bytes was given, allowed: at most {_REASON_MOST_BYTES}")

    def begin(self, worker: WorkerState) -> int:
        """Choose among the open WebSockets of a worker and begin to close them, spread over the time; return how many.

        Their applications learn of it `drain_notice` seconds before. A stop of the server closes those left.
        """
        chosen, close = self._choose(worker), Close(self.code, self.reason)
        # After a part of the first pause, because several workers start at the same time.
        after_s = random.random() * self.over_s / max(1, len(chosen))  # noqa: S311 - not a secret
        spread(worker.loop, chosen, self.over_s, lambda one: one.begin_drain(close, "admin"), after_s=after_s)
        return len(chosen)

    def matching(self, worker: WorkerState) -> list[WebSocketConnection]:
        """Return the open WebSockets of that path and client."""
        clients = TrustedNetworks((self.client or "*",))
        prefix = self.path.endswith("*") or not self.path
        path = self.path.removesuffix("*").encode("latin-1", "replace")
        return [
            connection
            for connection in worker.registry.connections
            if isinstance(connection, WebSocketConnection)
            and connection.closing.is_open
            and (connection.path.startswith(path) if prefix else connection.path == path)
            and (connection.client or (None,))[0] in clients
        ]

    def _choose(self, worker: WorkerState) -> list[WebSocketConnection]:
        """Return the WebSockets to close, in random order.

        A share that is not whole is rounded up or down at random, so that the shares of all workers sum up to that of
        the whole server.
        """
        found = [connection for connection in self.matching(worker) if not connection.closing.draining]
        count = int(len(found) * self.percent / 100 + random.random())  # noqa: S311 - not a secret
        return random.sample(found, min(count, len(found)))
