"""The sweep: the only timer of a worker. It counts a tick for every connection and measures the lag of the event loop.

Deadlines, keepalive and the limits per second are counted in ticks (`asgiws.server.state.deadlines`), so no connection
owns a timer and no message reads a clock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate

from asgiws.server.state.worker_state import WorkerState, server_fields
from asgiws.telemetry.logs import LOG

__all__ = ["Sweep"]


class Sweep:
    """Ticks every connection of a worker each `deadlines.tick_s` seconds."""

    def __init__(self, worker: WorkerState, on_second: Callable[[], None]) -> None:
        """Call `on_second` once a second, for what the server counts by the second."""
        self._worker = worker
        self._on_second = on_second
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._second_at_s = 0.0

    def start(self) -> None:
        """Sweep now, and then every tick."""
        self.turn()

    def stop(self) -> None:
        """Sweep no more."""
        if self._handle is not None:
            self._handle.cancel()

    def turn(self) -> None:
        """Tick the connections."""
        worker = self._worker
        tick_s = worker.deadlines.tick_s
        self._handle = worker.loop.call_later(tick_s, self.turn)
        now = time.monotonic()
        if self._due_s:
            worker.lag_s = max(0.0, now - self._due_s)
            worker.counters.lag.add(worker.lag_s)
        self._due_s = now + tick_s
        second_passed = now - self._second_at_s >= 1
        if second_passed:
            self._second_at_s = now
            worker.default_fields = server_fields(worker.config, formatdate(usegmt=True))
            worker.second_passed()
            self._on_second()
        for connection in list(worker.registry.connections):
            try:
                connection.on_tick(second_passed)
            except Exception:  # a fault of ours in one connection; the others have deadlines too
                LOG.exception("a deadline could not be kept, its connection is ended")
                connection.abort()
