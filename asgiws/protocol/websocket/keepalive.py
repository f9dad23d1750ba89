"""Keepalive (RFC 6455 §5.5.2), counted in ticks of the sweep so that no message reads a clock.

A connection counts the ticks since its last byte arrived; the policy says what is due. Any byte is a sign of life, so
a busy connection is never pinged. While our own reading is paused the count stays at zero: the silence is ours, and the
peer has the full timeout when reading is resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Final

__all__ = ["DEAD", "NOTHING", "PING_NOW", "KeepalivePolicy", "ticks"]

NOTHING: Final = 0
PING_NOW: Final = 1
DEAD: Final = 2


def ticks(seconds: float, tick_s: float) -> int:
    """Return how many ticks make at least `seconds`; 0 only for 0, which means never."""
    return ceil(seconds / tick_s) if seconds > 0 else 0


@dataclass(frozen=True, slots=True)
class KeepalivePolicy:
    """When to ping and when to give up, in ticks; 0: never."""

    interval_ticks: int
    timeout_ticks: int
    """For the answer to each ping."""
    misses: int = 1
    """Unanswered pings in a row after which the peer is given up."""

    def due(self, quiet_ticks: int) -> int:
        """Return what is due after `quiet_ticks` ticks without a byte: NOTHING, PING_NOW or DEAD."""
        interval, timeout = self.interval_ticks, self.timeout_ticks
        if not interval or quiet_ticks < interval:
            return NOTHING
        since_ping = quiet_ticks - interval
        if timeout and since_ping >= self.misses * timeout:
            return DEAD
        # With a timeout, the next ping leaves when the one before it has missed its answer.
        return PING_NOW if since_ping % (timeout or interval) == 0 else NOTHING
