"""Counts of what happened in a worker: plain ints, added to where it happens and read by whoever reports them.

Data paths keep their own ints in the connection; they are folded in here when the connection ends.
"""

from __future__ import annotations

from collections import Counter

__all__ = ["Counters"]


class Counters:
    """What one worker has counted since it began. All values only grow."""

    __slots__ = (
        "accept_errors", "app_errors", "bytes_in", "bytes_out", "closes", "http_requests", "http_responses",
        "keepalive_timeouts", "messages_in", "messages_out", "rejections", "slow_consumers", "websockets_accepted",
        "websockets_refused",
    )  # fmt: skip

    def __init__(self) -> None:
        self.accept_errors = 0
        self.app_errors = 0
        self.bytes_in = 0
        """Of WebSocket connections, on the wire."""
        self.bytes_out = 0
        self.closes: Counter[tuple[str, int]] = Counter()
        """WebSockets that ended, by who ended them (client, app, server) and close code."""
        self.http_requests = 0
        self.http_responses: Counter[int] = Counter()
        """By status."""
        self.keepalive_timeouts = 0
        self.messages_in = 0
        self.messages_out = 0
        self.rejections: Counter[str] = Counter()
        """Violations by the name of the rule."""
        self.slow_consumers = 0
        self.websockets_accepted = 0
        self.websockets_refused = 0
