"""Handshakes that are with the application, and those that wait for a place there (`--max-opening`).

A place is free again when the handshake was answered. If its client leaves first, the application may not know yet and
still works for it: the place is free when the application has returned, at the latest after the handshake timeout. Were
it free at once, clients that lose patience and return would put any number of handshakes to the application.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from math import ceil
from typing import Final, Protocol

from asgiws.protocol.printable import counted
from asgiws.telemetry.logs import LOG

__all__ = ["Openings", "Waiter"]

_STARTS_A_TURN: Final = 64
_QUIET_S: Final = 10
"""Without a handshake that waits; then the next one that does is logged again."""


class Waiter(Protocol):
    """A handshake that waits."""

    def begin_opening(self) -> None:
        """Take the place, by `Openings.begin`, and pass the handshake to the application."""


class Openings:
    """The places and the queue of one worker."""

    __slots__ = (
        "_loop", "_most_s", "_quiet_since", "_second", "_starting", "_waited_count", "_waiting", "most", "taken",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int, timeout_s: float) -> None:
        self._loop = loop
        self.most = most
        """Places; 0 for no limit, and then nothing here is called."""
        self._most_s = ceil(timeout_s)
        self._second = 0
        self._starting = False
        """Whether some that wait are started in the next turn."""
        self.taken: dict[object, int] = {}
        """Connections that have a place, and since which second."""
        self._waiting: OrderedDict[Waiter, None] = OrderedDict()
        self._waited_count = 0
        """Handshakes that have waited since that was logged."""
        self._quiet_since = 0
        """The last second in which one waited."""

    @property
    def full(self) -> bool:
        """Whether a handshake has to wait; the turn of one that waits already comes first."""
        return len(self.taken) >= self.most or bool(self._waiting)

    def begin(self, connection: object) -> None:
        """Take a place for a connection."""
        self.taken[connection] = self._second

    def end(self, connection: object) -> None:
        """Free the place of a connection, if it has one."""
        if self.taken.pop(connection, None) is not None and self._waiting and not self._starting:
            # Not at once: it is another connection's application that calls this.
            self._start_soon()

    def wait(self, waiter: Waiter) -> None:
        """Put a handshake at the end of the queue."""
        if not self._waited_count:
            LOG.warning("handshakes wait: as many as --max-opening allows are with the application (%d)", self.most)
        self._waited_count += 1
        self._quiet_since = self._second
        self._waiting[waiter] = None

    def leave(self, waiter: Waiter) -> None:
        """Take a handshake out of the queue, if it is there."""
        self._waiting.pop(waiter, None)

    def second_passed(self) -> None:
        """Free the places of applications that have not returned long after their client left; log that none waits."""
        self._second += 1
        if self._waiting:
            self._quiet_since = self._second
            if not self._starting:  # a fault in the start of one must not keep the others
                self._start_soon()
        elif self._waited_count and self._second - self._quiet_since >= _QUIET_S:
            LOG.info("no handshake waits any more; %s did", counted(self._waited_count, "handshake"))
            self._waited_count = 0
        if self._most_s:
            for connection in [each for each, since in self.taken.items() if self._second - since > self._most_s]:
                self.end(connection)

    def _start_soon(self) -> None:
        self._starting = True
        self._loop.call_soon(self._start_waiting)

    def _start_waiting(self) -> None:
        """Start some that wait. Places that become free together would else hold the loop, again and again."""
        self._starting = False
        for _ in range(_STARTS_A_TURN):
            if not self._waiting or len(self.taken) >= self.most:
                return
            self._waiting.popitem(last=False)[0].begin_opening()
        self._start_soon()
