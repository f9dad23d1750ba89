"""The sweep: the timer of a worker. It counts a tick for every connection and measures the lag of the event loop.

Deadlines, keepalive and the limits per second are counted in ticks (`asgiws.server.state.deadlines`), so no connection
owns a timer and no message reads a clock.

A sweep is cut into turns, between which the loop serves its connections. A tick of an idle connection takes about half
a microsecond, one that sends a ping 26: without turns, 10,000 connections that are due together would hold the loop
for 260 ms, and each measured round trip would contain that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from itertools import islice
from typing import Final

from asgiws.server.state.registry import Connection
from asgiws.server.state.worker_state import WorkerState, server_fields
from asgiws.telemetry.logs import LOG

__all__ = ["Sweep"]

_CONNECTIONS_PER_TURN: Final = 128
"""3 to 4 ms when each of them sends a ping."""

_BLOCKED_S: Final = 2.0
"""A delay of the sweep that is logged; a busy machine alone can make a shorter one."""


class Sweep:
    """Ticks every connection of a worker once in `deadlines.tick_s` seconds."""

    def __init__(self, worker: WorkerState, on_second: Callable[[], None]) -> None:
        """Call `on_second` once a second, for what the server counts by the second."""
        self._worker = worker
        self._on_second = on_second
        self._handle: asyncio.Handle | None = None
        self._due_s = 0.0
        self._second_at_s = 0.0
        self._second_passed = False
        self._spent_s = 0.0
        """How long the turns of this sweep have held the loop."""
        self._left: Iterator[Connection] | None = None
        """Connections that this sweep has not ticked yet; None between two sweeps."""

    def start(self) -> None:
        """Sweep now, and then every tick."""
        self.turn()

    def stop(self) -> None:
        """Stop sweeping."""
        if self._handle is not None:
            self._handle.cancel()

    def turn(self) -> None:
        """Tick the next connections, and continue when the loop has turned, or at the next tick after the last one."""
        worker, began_s = self._worker, time.monotonic()
        try:
            if self._left is None:
                self._left = iter(list(worker.registry.connections))
                self._begin(began_s)
            self._tick_next()
        finally:  # a fault must not end the sweep, and with it all deadlines
            now_s = time.monotonic()
            self._spent_s += now_s - began_s
            if self._left is not None:
                self._handle = worker.loop.call_soon(self.turn)
            else:
                worker.counters.sweeps.add(self._spent_s)
                self._handle = worker.loop.call_later(max(0.0, self._due_s - now_s), self.turn)

    def _begin(self, now_s: float) -> None:
        worker = self._worker
        self._spent_s = 0.0
        if self._due_s:
            worker.lag_s = max(0.0, now_s - self._due_s)
            worker.counters.lag.add(worker.lag_s)
            if worker.lag_s >= _BLOCKED_S:
                worker.incidents.on_blocked_loop(worker.lag_s)
        self._due_s = now_s + worker.deadlines.tick_s
        self._second_passed = now_s - self._second_at_s >= 1
        if self._second_passed:
            self._second_at_s = now_s
            worker.default_fields = server_fields(worker.config, formatdate(usegmt=True))
            worker.second_passed()
            self._on_second()

    def _tick_next(self) -> None:
        assert self._left is not None
        connections = self._worker.registry.connections
        some = list(islice(self._left, _CONNECTIONS_PER_TURN))
        if len(some) < _CONNECTIONS_PER_TURN:
            self._left = None
        for connection in some:
            if connection not in connections:
                continue  # it has ended between two turns
            try:
                connection.on_tick(self._second_passed)
            except Exception:  # a fault of ours in one connection; the others have deadlines too
                LOG.exception("a deadline could not be kept, its connection is ended")
                connection.abort()
