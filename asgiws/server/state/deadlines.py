"""The deadlines of connections in ticks of the sweep, converted once from options in seconds."""

from __future__ import annotations

from typing import Final

from asgiws.config.options import Config
from asgiws.protocol.websocket.keepalive import KeepalivePolicy, ticks

__all__ = ["Deadlines"]

_SWEEP_MOST_S: Final = 1.0
_SWEEP_LEAST_S: Final = 0.02
# For the next request on a kept connection when another process takes over; at most a quarter of the graceful timeout
_LAST_REQUEST_S: Final = 5.0


class Deadlines:
    """The deadlines in ticks of the sweep; 0 is none.

    A tick is a quarter of the shortest deadline, at most a second. Only the answer timeout, which is short, may be off
    by a whole tick.
    """

    __slots__ = (
        "answer", "body", "close", "handshake", "head", "idle", "keep_alive", "keepalive", "last", "lifetime", "tick_s",
        "write",
    )  # fmt: skip

    def __init__(self, config: Config) -> None:
        seconds = (
            config.head_timeout, config.body_timeout, config.keep_alive_timeout, config.handshake_timeout,
            config.close_timeout, config.write_timeout, config.idle_timeout, config.max_lifetime, config.ping_interval,
            config.ping_timeout, 4 * config.answer_timeout,
        )  # fmt: skip
        shortest = min((value for value in seconds if value), default=_SWEEP_MOST_S)
        self.tick_s = tick_s = max(_SWEEP_LEAST_S, min(_SWEEP_MOST_S, shortest / 4))
        self.head = ticks(config.head_timeout, tick_s)
        self.body = ticks(config.body_timeout, tick_s)
        self.keep_alive = ticks(config.keep_alive_timeout, tick_s)
        self.handshake = ticks(config.handshake_timeout, tick_s)
        self.close = ticks(config.close_timeout, tick_s)
        self.write = ticks(config.write_timeout, tick_s)
        self.idle = ticks(config.idle_timeout, tick_s)
        self.lifetime = ticks(config.max_lifetime, tick_s)
        self.answer = ticks(config.answer_timeout, tick_s) or 1
        self.last = ticks(min(_LAST_REQUEST_S, config.graceful_timeout / 4), tick_s) + 1  # the first tick comes early
        self.keepalive = KeepalivePolicy(
            ticks(config.ping_interval, tick_s), ticks(config.ping_timeout, tick_s), config.ping_misses
        )
