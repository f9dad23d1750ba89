"""Shedding: nothing new is served while the event loop lags or memory is short, so that open sockets stay served.

Ten times a second a timer measures how late it is itself, as everything else on the loop is, and the resident memory.
The lag is smoothed: one long call of an application is over when it is noticed, several in a row are overload. Refusing
begins above the limit and ends well below it, because what brings a value down, refusing, would otherwise be switched
off by its own effect. `asgiws.server.state.admission` refuses; nothing here touches a connection.

Without `--shed-lag` and `--shed-memory` there is no timer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from asgiws.config.options import Config
from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.server.recycling import resident_bytes
from asgiws.server.state.worker_state import WorkerState

__all__ = ["Overload", "OverloadProbe"]

_EVERY_S: Final = 0.1
_WEIGHT: Final = 1 / 8
"""Of the newest lag in the smoothed one: of a lag that lasts, two thirds are seen after eight measurements."""
_LAG_COUNTED_MOST: Final = 4
"""Times the limit: so much of one lag counts, so that it takes three in a row to begin, and less than 2 s to end."""
_LAG_ENDS_AT: Final = 0.5
_MEMORY_ENDS_AT: Final = 0.95
"""Memory that was freed is returned to the system late and in part, so a larger step might never be reached."""


class Overload:
    """The decision, made of measurements alone."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lagging = False
        self._full = False
        self.lag_s = 0.0
        """The smoothed lag."""

    def measured(self, lag_s: float, memory_bytes: int) -> Violation | None:
        """Take measurements; return why nothing new is served, None when it is."""
        config = self._config
        self.lag_s += (min(lag_s, _LAG_COUNTED_MOST * config.shed_lag) - self.lag_s) * _WEIGHT
        self._lagging = 0 < config.shed_lag * (_LAG_ENDS_AT if self._lagging else 1) < self.lag_s
        self._full = 0 < config.shed_memory * (_MEMORY_ENDS_AT if self._full else 1) < memory_bytes
        if self._lagging:
            return Violation(errors.SHED_LAG, f"the event loop lags {self.lag_s:.2f} s, limit {config.shed_lag:g}")
        if self._full:
            return Violation(errors.SHED_MEMORY, f"{memory_bytes} bytes of memory in use, limit {config.shed_memory}")
        return None


class OverloadProbe:
    """The timer of one worker that measures, and writes the decision into its admission."""

    def __init__(self, worker: WorkerState) -> None:
        self._worker = worker
        self._overload = Overload(worker.config)
        self._handle: asyncio.TimerHandle | None = None
        self._due_s = 0.0
        self._began_s = 0.0
        self._refused_before = 0

    def start(self) -> None:
        """Measure from now on, if an option asks for it."""
        if self._worker.config.shed_lag or self._worker.config.shed_memory:
            self._wait()

    def stop(self) -> None:
        """Stop measuring."""
        if self._handle is not None:
            self._handle.cancel()

    def _wait(self) -> None:
        self._due_s = time.monotonic() + _EVERY_S
        self._handle = self._worker.loop.call_later(_EVERY_S, self._measure)

    def _measure(self) -> None:
        now_s, admission = time.monotonic(), self._worker.admission
        violation = self._overload.measured(max(0.0, now_s - self._due_s), resident_bytes())
        if (violation is None) != (admission.overload is None):
            self._report(violation, now_s)
        admission.overload = violation
        self._wait()

    def _report(self, violation: Violation | None, now_s: float) -> None:
        """Log that refusing begins, or how long it has lasted and how many were refused."""
        rejections, incidents = self._worker.counters.rejections, self._worker.incidents
        refused_count = rejections[errors.SHED_LAG.name] + rejections[errors.SHED_MEMORY.name]
        if violation is not None:
            self._began_s, self._refused_before = now_s, refused_count
            incidents.on_shedding(violation)
        else:
            incidents.on_shedding_over(now_s - self._began_s, refused_count - self._refused_before)
