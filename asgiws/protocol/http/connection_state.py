"""The states of an HTTP/1.1 connection (RFC 9112 §9), as a table.

    NEW         connected, no byte has arrived
    IDLE        between two requests, no byte of the next has arrived
    HEAD        part of a request head has arrived
    REQUEST     a request is with the application
    SKIPPING    the response is done, the rest of its request's body is read and dropped
    LINGERING   the last response is written; what still arrives is discarded until the TCP connection ends
    UPGRADED    the WebSocket connection has taken over
    CLOSED      the TCP connection is gone

`NEXT` is the whole table: what is not in it cannot happen, and looking it up raises KeyError. The connection acts on
the new state; this module only knows which one it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["NEXT", "Moved", "State"]


class State:
    """The states. Those up to HEAD wait for a request."""

    NEW, IDLE, HEAD, REQUEST, SKIPPING, LINGERING, UPGRADED, CLOSED = range(8)


class Moved:
    """What moves a connection to another state.

    HEAD_BEGAN      the first bytes of a head are there, and more are needed
    REQUEST_BEGAN   a whole head was handed to the application
    UPGRADE         a whole head was a WebSocket handshake
    BODY_LEFT       the response is written, the request body is not read to its end
    REQUEST_DONE    the response is written and the request was read to its end
    LAST_WRITTEN    the last response is written, nothing more is read
    TCP_LOST        the transport is gone
    """

    HEAD_BEGAN, REQUEST_BEGAN, UPGRADE, BODY_LEFT, REQUEST_DONE, LAST_WRITTEN, TCP_LOST = range(7)


NEXT: Final[Mapping[tuple[int, int], int]] = {
    (State.NEW, Moved.HEAD_BEGAN): State.HEAD,
    (State.IDLE, Moved.HEAD_BEGAN): State.HEAD,
    **{(state, Moved.REQUEST_BEGAN): State.REQUEST for state in range(State.HEAD + 1)},
    **{(state, Moved.UPGRADE): State.UPGRADED for state in range(State.HEAD + 1)},
    (State.REQUEST, Moved.BODY_LEFT): State.SKIPPING,
    (State.REQUEST, Moved.REQUEST_DONE): State.IDLE,
    (State.SKIPPING, Moved.REQUEST_DONE): State.IDLE,
    **{(state, Moved.LAST_WRITTEN): State.LINGERING for state in range(State.SKIPPING + 1)},
    **{(state, Moved.TCP_LOST): State.CLOSED for state in range(State.CLOSED + 1)},
}
