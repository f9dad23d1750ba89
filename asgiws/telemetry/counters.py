"""Counts of what happened in a worker: plain ints, added to where it happens and read by whoever reports them.

Data paths keep their own ints in the connection; they are folded in here when the connection ends, and what live ones
have counted so far is added by the report (`Levels`), so that a connection of many hours shows its traffic. No lock:
all of it belongs to the thread of the event loop.

What is counted under which name, and what it means, is the table in `asgiws.telemetry.prometheus`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any, Final

__all__ = ["BOUNDS", "Counters", "Counts", "Histogram", "Levels", "code_label"]

Counts = dict[str, dict[str, int]]
"""Numbers by name, and then by the values of their labels, joined by colons; "" for a number without labels."""

_SHORT_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LONG_S: Final = (1.0, 10.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 12 * 3600.0, 24 * 3600.0, 7 * 24 * 3600.0)
BOUNDS: Final = {"lag": _SHORT_S, "requests": _SHORT_S, "round_trips": _SHORT_S, "lifetimes": _LONG_S}
"""Upper bounds of the ranges of each histogram, in seconds."""

# The registry of RFC 6455 §11.7 beyond 1015, as IANA has it; all other codes above 2999 are a client's free choice.
_REGISTERED_CODES: Final = frozenset((3000, 3003, 3008))


class Histogram:
    """Values counted by ranges with fixed upper bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, name: str) -> None:
        self.bounds = BOUNDS[name]
        self.counts = [0] * (len(self.bounds) + 1)
        """For each range, and for what is above the last; not cumulated."""
        self.total = 0.0
        """Seconds."""

    def add(self, value: float) -> None:
        """Count a value; O(log ranges)."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Counters:
    """What one worker has counted since it began. All values only grow."""

    __slots__ = (
        "accept_errors", "app_errors", "bytes_in", "bytes_out", "closes", "compressed_from", "compressed_to",
        "handshakes", "http_requests", "http_responses", "keepalive_timeouts", "lag", "lifetimes", "messages_in",
        "messages_out", "rejections", "requests", "round_trips", "slow_consumers", "websockets_abandoned",
        "websockets_accepted", "websockets_refused", "websockets_rejected",
    )  # fmt: skip

    def __init__(self) -> None:
        self.accept_errors = 0
        self.app_errors = 0
        self.bytes_in = 0
        """Of WebSocket connections, on the wire."""
        self.bytes_out = 0
        self.closes: Counter[tuple[str, int]] = Counter()
        """WebSockets that ended, by who ended them (client, app, server, admin) and close code."""
        self.compressed_from = 0
        """Bytes before compression, of the messages that were compressed; those of a broadcast count once."""
        self.compressed_to = 0
        self.handshakes = 0
        """Handshakes that the application was asked about; also the number of the latest of these connections."""
        self.http_requests = 0
        self.http_responses: Counter[int] = Counter()
        """By status."""
        self.keepalive_timeouts = 0
        self.lag = Histogram("lag")
        """How late the sweep came."""
        self.lifetimes = Histogram("lifetimes")
        """Of WebSockets that have ended."""
        self.messages_in = 0
        self.messages_out = 0
        self.rejections: Counter[str] = Counter()
        """Violations by the name of the rule."""
        self.requests = Histogram("requests")
        """From the request head to the end of the response."""
        self.round_trips = Histogram("round_trips")
        """From a keepalive ping to its pong."""
        self.slow_consumers = 0
        self.websockets_abandoned = 0
        """Without a whole answer: the client left before it, or the application did not complete its denial."""
        self.websockets_accepted = 0
        self.websockets_refused = 0
        self.websockets_rejected = 0
        """Handshakes that the application was not asked about."""

    def as_counts(self, live: Levels) -> Counts:
        """Give all counts, with what live connections have counted so far."""
        closes: Counter[str] = Counter()
        for (by, code), count in self.closes.items():
            closes[f"{by}:{code_label(by, code)}"] += count
        return {
            "accept_errors": {"": self.accept_errors},
            "app_errors": {"": self.app_errors},
            "bytes": {"in": self.bytes_in + live.bytes_in, "out": self.bytes_out + live.bytes_out},
            "closes": closes,
            "compressed_from": {"": self.compressed_from + live.compressed_from},
            "compressed_to": {"": self.compressed_to + live.compressed_to},
            "handshakes": {
                "accepted": self.websockets_accepted,
                "refused": self.websockets_refused,
                "rejected": self.websockets_rejected,
                "abandoned": self.websockets_abandoned,
            },
            "http_requests": {"": self.http_requests},
            "http_responses": {str(status): count for status, count in self.http_responses.items()},
            "keepalive_timeouts": {"": self.keepalive_timeouts},
            "messages": {"in": self.messages_in + live.messages_in, "out": self.messages_out + live.messages_out},
            "rejections": dict(self.rejections),
            "slow_consumers": {"": self.slow_consumers},
        }

    def as_histograms(self) -> dict[str, dict[str, Any]]:
        """Give all histograms: `counts`, not cumulated, and `total_ns`, whole, so that workers can be added exactly."""
        return {
            name: {"counts": list(histogram.counts), "total_ns": round(histogram.total * 1e9)}
            for name, histogram in (
                ("lag", self.lag),
                ("lifetimes", self.lifetimes),
                ("requests", self.requests),
                ("round_trips", self.round_trips),
            )
        }


class Levels:
    """What the open connections of a worker hold at one moment, and have counted since each began."""

    __slots__ = (
        "arriving", "bytes_in", "bytes_out", "compressed_from", "compressed_to", "http", "inbox_bytes",
        "inbox_messages", "messages_in", "messages_out", "requests", "unsent_bytes", "websockets",
    )  # fmt: skip

    def __init__(self) -> None:
        self.arriving = 0
        """Whose TLS handshake or PROXY header is awaited."""
        self.bytes_in = 0
        self.bytes_out = 0
        self.compressed_from = 0
        """By compressors of single connections."""
        self.compressed_to = 0
        self.http = 0
        self.inbox_bytes = 0
        """Bytes of binary messages, characters of text."""
        self.inbox_messages = 0
        self.messages_in = 0
        self.messages_out = 0
        self.requests = 0
        """HTTP requests that are with the application."""
        self.unsent_bytes = 0
        self.websockets = 0

    def as_levels(self) -> Counts:
        """Give what goes up and down."""
        return {
            "connections": {"arriving": self.arriving, "http": self.http, "websocket": self.websockets},
            "inbox_bytes": {"": self.inbox_bytes},
            "inbox_messages": {"": self.inbox_messages},
            "requests_open": {"": self.requests},
            "unsent_bytes": {"": self.unsent_bytes},
        }


def code_label(by: str, code: int) -> str:
    """Give a close code as the value of a label, of which there are only so many.

    Clients choose freely from 3000 to 4999, and could make a time series of each. The application's own are kept.
    """
    if by == "app" or code < 3000 or code in _REGISTERED_CODES:
        return str(code)
    return "3xxx" if code < 4000 else "4xxx"
