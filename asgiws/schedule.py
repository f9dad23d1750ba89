"""Calls that follow one another in time, with one timer for all of them and a few in each turn of the loop.

What ends many connections uses it: their clients reconnect, and must not all do so at the same moment.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

__all__ = ["Schedule", "spread"]

_T = TypeVar("_T")
_LOG: Final = logging.getLogger("asgiws")
# To close this many WebSockets takes some milliseconds; other connections get their turn in between.
_CALLS_A_TURN: Final = 100
# A timer of uvloop may come this much early.
_TIMER_STEP_S: Final = 0.001


class Schedule:
    """Calls in the order of their times."""

    __slots__ = ("_calls", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: deque[tuple[float, Callable[[], object]]] = deque()
        """Each with its time on the clock of the loop."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, due_s: float, call: Callable[[], object]) -> None:
        """Add a call that is due when the loop's clock shows `due_s`, not before those that were added earlier."""
        self._calls.append((due_s, call))
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self.call_due)

    def call_due(self) -> None:
        """Make calls that are due, and set the timer for the next."""
        self._cancel()
        self._make(_CALLS_A_TURN, until_s=self._loop.time() + _TIMER_STEP_S)
        if self._calls and self._timer is None:  # a call may have added one
            self._timer = self._loop.call_at(self._calls[0][0], self.call_due)

    def finish(self) -> None:
        """Make all calls that are left, now."""
        self._cancel()
        self._make(len(self._calls), until_s=math.inf)

    def _make(self, count: int, until_s: float) -> None:
        for _ in range(count):
            if not self._calls or self._calls[0][0] > until_s:
                break
            _, call = self._calls.popleft()
            try:
                call()
            except Exception:  # a fault of ours in one connection; the others have their turn too
                _LOG.exception("a connection could not be ended in its turn")

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def spread(
    loop: asyncio.AbstractEventLoop,
    items: Sequence[_T],
    over_s: float,
    call: Callable[[_T], object],
    *,
    after_s: float = 0.0,
) -> Schedule:
    """Call a function with each item, evenly over `over_s` seconds that begin `after_s` seconds from now."""
    schedule, began_s = Schedule(loop), loop.time() + after_s
    for place, item in enumerate(items):
        schedule.add(began_s + over_s * place / len(items), partial(call, item))
    schedule.call_due()
    return schedule
