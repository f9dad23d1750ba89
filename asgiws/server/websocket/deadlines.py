"""The deadlines of one WebSocket connection, counted in ticks of the sweep.

The connection resets `quiet_ticks` when bytes arrive, asks once a tick what is due, and acts on the answer. Nothing
here reads a clock, so a test plays hours of silence in microseconds.
"""

from __future__ import annotations

import random
from typing import Final

from asgiws.protocol.websocket.closing import Close, State
from asgiws.protocol.websocket.keepalive import DEAD, NOTHING, PING_NOW
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.connection.slow_client import is_too_slow
from asgiws.server.state.deadlines import Deadlines

__all__ = [
    "ANSWER_LATE", "CLOSE_LATE", "CLOSE_WHEN_DUE", "DEAD", "IDLE_TOO_LONG", "LIFETIME_OVER", "NOTHING", "OPENING_LATE",
    "PING_NOW", "SLOW_CLIENT", "ConnectionDeadlines",
]  # fmt: skip

# What is due, besides NOTHING, PING_NOW and DEAD of `asgiws.protocol.websocket.keepalive`
SLOW_CLIENT: Final = 3
ANSWER_LATE: Final = 4
IDLE_TOO_LONG: Final = 5
LIFETIME_OVER: Final = 6
OPENING_LATE: Final = 7
CLOSE_LATE: Final = 8
CLOSE_WHEN_DUE: Final = {
    DEAD: Close(1011, "keepalive ping timeout"),
    IDLE_TOO_LONG: Close(1001, "idle timeout"),
    LIFETIME_OVER: Close(1001, "maximum lifetime"),
}

_LIFETIME_SPREAD: Final = 0.1
# The largest part of the ping interval that a connection may stay below it. Each has a phase of its own: connections
# that were opened, or received a broadcast, in the same second would otherwise be pinged in the same tick forever.
_PING_SPREAD: Final = 0.5


class ConnectionDeadlines:
    """What one connection waits for, and since when."""

    __slots__ = (
        "_answer_ticks", "_blocked_ticks", "_deadlines", "_flow", "_idle_count", "_idle_ticks", "_lifetime_ticks",
        "_phase_ticks", "_state_ticks", "quiet_ticks",
    )  # fmt: skip

    def __init__(self, deadlines: Deadlines, flow: FlowControl) -> None:
        self._deadlines = deadlines
        self._flow = flow
        self.quiet_ticks = 0
        """Ticks since the last byte arrived, or since reading was resumed."""
        self._state_ticks = 0
        """Ticks in a state with a deadline: before the accept, and after the Close."""
        self._answer_ticks = 0
        self._blocked_ticks = 0
        self._idle_ticks = 0
        self._idle_count = 0
        self._phase_ticks = int(deadlines.keepalive.interval_ticks * _PING_SPREAD * random.random())  # noqa: S311
        self._lifetime_ticks = deadlines.lifetime
        if self._lifetime_ticks:
            self._lifetime_ticks -= int(self._lifetime_ticks * _LIFETIME_SPREAD * random.random())  # noqa: S311

    def expect_answer(self) -> None:
        """Allow a busy application `answer_timeout` to reach the end that waits in its inbox."""
        if not self._answer_ticks:
            self._answer_ticks = self._deadlines.answer

    def enter_state(self) -> None:
        """Start the deadline of a new state."""
        self._state_ticks = self._answer_ticks = 0

    def tick_open(self, *, reading_blocked: bool, message_count: int) -> int:
        """Count a tick of an open connection; return what is due. An idle connection costs the first lines only.

        `message_count` is that of both directions so far.
        """
        deadlines = self._deadlines
        self.quiet_ticks = quiet = self.quiet_ticks + 1
        if reading_blocked:
            # We do not read, so the silence is ours and not the peer's. A ping still leaves once an interval: writing
            # to a peer is the only way to learn that it has gone while nothing is read.
            self.quiet_ticks = 0
            self._blocked_ticks += 1
            interval = deadlines.keepalive.interval_ticks
            if interval and (self._blocked_ticks + self._phase_ticks) % interval == 0:
                return PING_NOW
        else:
            self._blocked_ticks = 0
            due = deadlines.keepalive.due(quiet + self._phase_ticks)
            if due:
                return due
        if self._flow.write_paused and is_too_slow(self._flow, deadlines):
            return SLOW_CLIENT
        if self._answer_ticks:
            self._answer_ticks -= 1
            if not self._answer_ticks:
                return ANSWER_LATE
        if deadlines.idle:
            self._idle_ticks = self._idle_ticks + 1 if message_count == self._idle_count else 0
            self._idle_count = message_count
            if self._idle_ticks >= deadlines.idle:
                return IDLE_TOO_LONG
        if self._lifetime_ticks:
            self._lifetime_ticks -= 1
            if not self._lifetime_ticks:
                return LIFETIME_OVER
        return NOTHING

    def tick_not_open(self, state: int) -> int:
        """Count a tick before the accept or after the Close; return what is due."""
        deadlines = self._deadlines
        self._state_ticks += 1
        if state == State.CONNECTING:
            return OPENING_LATE if deadlines.handshake and self._state_ticks >= deadlines.handshake else NOTHING
        if state == State.DENYING:
            return SLOW_CLIENT if is_too_slow(self._flow, deadlines) else NOTHING
        if self._flow.progresses():
            # What was written before the Close is still leaving to a slow client.
            self._state_ticks = 0
        return CLOSE_LATE if self._state_ticks >= deadlines.close else NOTHING
