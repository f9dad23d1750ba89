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
    server stops          Close 1012                        1012

A Close or a violation keeps its place in line: messages that came before it are delivered first, and what the
application answers to them leaves before the Close. A violation waits until `receive` reaches it, but no longer than
`answer_timeout`. A Close waits only while undelivered messages precede it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from asgiws.protocol.errors import Violation
from asgiws.protocol.websocket.closing import NEXT, Close, State
from asgiws.protocol.websocket.receiver import Item

__all__ = ["ClosingHandshake"]

_ABNORMAL: Final = Close(1006, "")


class ClosingHandshake:
    """The state of a connection, from its handshake request on, and the cause of its end."""

    __slots__ = ("end", "ended_by", "rule", "state")

    def __init__(self) -> None:
        self.state = State.CONNECTING
        self.end: Close | None = None
        """What the disconnect event says; set once, by the first cause."""
        self.ended_by = ""
        """client, app, server or admin."""
        self.rule = ""
        """The rule that the peer broke, if that was the cause."""

    def advance(self, event: int) -> None:
        """Move to the state that follows `event`."""
        self.state = NEXT[self.state, event]

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
