"""The closing handshake of one connection: its state, who ended it, and the close code that each side receives.

This object decides, and does no I/O: `asgiws.server.websocket.connection` writes the frames. The states and their
transitions are in `asgiws.protocol.websocket.closing`. Each end of a connection is one row of this table:

    cause                 sent to the client                received by the application
    peer's Close          same code back, TCP closed        that code and reason; 1005 when it had none
    TCP lost              nothing                           1006
    violation             Close 1002, 1007, 1008, 1009      that code and reason
    no answer to a ping   Close 1011, TCP aborted           1011
    stuck writes          TCP aborted                       1006 "slow consumer"
    app closes            Close, its answer awaited         its own code and reason
    app returns           Close 1000
    app raises            Close 1011, logged
    server stops          Close 1012                        1012; the notice of a drain before, if asked for

A Close or a violation keeps its place in line: messages that came before it are delivered first, and what the
application answers to them leaves before the Close. A violation waits until `receive` reaches it, but no longer than
`answer_timeout`. A Close waits only while undelivered messages precede it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from asgiws.config.options import Config
from asgiws.protocol.errors import Violation
from asgiws.protocol.websocket.closing import NEXT, Close, Drain, Moved, State
from asgiws.protocol.websocket.receiver import Item
from asgiws.server.connection.flow_control import wake
from asgiws.server.state.retry_after import choose_retry_after, with_retry_after

__all__ = ["ClosingHandshake", "DrainNotice", "shutdown_close"]

_ABNORMAL: Final = Close(1006, "")


def shutdown_close(config: Config) -> Close:
    """Return the Close of a connection that a stop ends, with a hint for its client if there is a window for it."""
    reason = "service restart"
    if config.retry_hint:
        reason = with_retry_after(reason, choose_retry_after(config.retry_hint))
    return Close(config.shutdown_code, reason)


class DrainNotice:
    """Whether the drain of a connection has begun, and what in the application waits for that."""

    __slots__ = ("_close_at_s", "_inbox", "_wake_receivers", "begun", "waiters")

    def __init__(self) -> None:
        self.begun = False
        self.waiters: list[asyncio.Future[None]] = []
        self._close_at_s = 0.0
        self._inbox: list[Item] | None = None
        self._wake_receivers: Callable[[], None]

    def begin(self, close_at_s: float) -> None:
        """Let the application know that our Close follows at that time."""
        self.begun, self._close_at_s = True, close_at_s
        wake(self.waiters)
        self._put()

    def subscribe(self, inbox: list[Item], wake_receivers: Callable[[], None]) -> None:
        """Put the event into an inbox when the drain begins, and wake those who receive from it."""
        if self._inbox is None:
            self._inbox, self._wake_receivers = inbox, wake_receivers
            if self.begun:
                self._put()

    def _put(self) -> None:
        inbox = self._inbox
        if inbox is not None and not (inbox and isinstance(inbox[-1], Close | Violation)):  # after which nothing comes
            inbox.append(Drain(self._close_at_s))
            self._wake_receivers()


class ClosingHandshake:
    """The state of a connection, from its handshake request on, and the cause of its end."""

    __slots__ = ("drain", "end", "ended_by", "rule", "state")

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.end: Close | None = None
        """What the disconnect event says; set once, by the first cause."""
        self.ended_by = ""
        """client, app, server or admin."""
        self.rule = ""
        """The rule that the peer broke, if that was the cause."""
        self.drain: DrainNotice | None = None
        """Made when first asked for."""

    def advance(self, event: int) -> None:
        """Move to the state that follows `event`."""
        self.state = NEXT[self.state, event]
        if self.drain is not None and event != Moved.TCP_LOST:  # the connection wakes them then, with its own
            wake(self.drain.waiters)

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: the handshake is done and no side has begun to close."""
        return self.state == State.OPEN

    def drain_notice(self) -> DrainNotice:
        """Return what waits for a drain of the connection."""
        if self.drain is None:
            self.drain = DrainNotice()
        return self.drain

    @property
    def draining(self) -> bool:
        """Whether the application knows that our Close follows."""
        return self.drain is not None and self.drain.begun

    def begin(self, close: Close, by: str) -> None:
        """Record that our side closes, unless there is an earlier cause."""
        if self.end is None:
            self.end, self.ended_by = close, by

    def answer(self, item: Close | Violation) -> Close:
        """Record the peer's Close or violation, and return the Close that answers it."""
        if isinstance(item, Violation):
            self.rule = item.rule.name
            close = Close(item.rule.code, item.reason)
            self.begin(close, "server")
            return self.end or close
        self.begin(item, "client")
        # RFC 6455 §5.5.1: the Close sent in answer typically echoes the status code received
        return Close(item.code, "")

    def final(self, inbox: Sequence[Item]) -> Close:
        """Return what the disconnect event says: what took effect, else what waits in line, else that TCP was lost."""
        if self.end is not None:
            return self.end
        last = inbox[-1] if inbox else None
        if isinstance(last, Violation):
            return Close(last.rule.code, last.reason)
        return last if isinstance(last, Close) else _ABNORMAL
