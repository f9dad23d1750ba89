"""The closing handshake (RFC 6455 §5.5.1 and §7): Close frames, close codes, and the states of a connection.

States of a WebSocket connection:

    CONNECTING  the handshake was read, the application has not answered
    DENYING     the application answers with an HTTP response instead (`websocket.http.response`)
    OPEN        both sides may send messages
    CLOSING     our Close is out, the peer's is awaited
    LINGERING   nothing more is sent; what still arrives is discarded until the TCP connection ends
    CLOSED      the TCP connection is gone

`NEXT` is the whole table: what is not in it cannot happen, and looking it up raises KeyError. The connection acts on
the new state.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.websocket.frames import CLOSE, FIN, encode_frame

__all__ = [
    "NEXT", "STATE_NAMES", "Close", "Drain", "Moved", "State", "check_close", "encode_close", "is_close_code",
    "parse_close",
]  # fmt: skip


class State:
    """The states. OPEN and the ones before it can still send."""

    CONNECTING, DENYING, OPEN, CLOSING, LINGERING, CLOSED = range(6)


STATE_NAMES: Final = ("connecting", "denying", "open", "closing", "lingering", "closed")


class Moved:
    """What moves a connection to another state.

    ACCEPTED     the 101 was sent
    DENY_BEGAN   the head of an HTTP response was sent
    REFUSED      the last byte of an HTTP response was sent
    CLOSE_SENT   our Close was sent, and the peer's is awaited
    CLOSE_DONE   nothing more is sent or awaited
    TCP_LOST     the transport is gone
    """

    ACCEPTED, DENY_BEGAN, REFUSED, CLOSE_SENT, CLOSE_DONE, TCP_LOST = range(6)


NEXT: Final[Mapping[tuple[int, int], int]] = {
    (State.CONNECTING, Moved.ACCEPTED): State.OPEN,
    (State.CONNECTING, Moved.DENY_BEGAN): State.DENYING,
    (State.CONNECTING, Moved.REFUSED): State.LINGERING,
    (State.DENYING, Moved.REFUSED): State.LINGERING,
    (State.OPEN, Moved.CLOSE_SENT): State.CLOSING,
    (State.OPEN, Moved.CLOSE_DONE): State.LINGERING,
    (State.CLOSING, Moved.CLOSE_DONE): State.LINGERING,
    **{(state, Moved.TCP_LOST): State.CLOSED for state in range(State.CLOSED + 1)},
}


class Close(NamedTuple):
    """A Close frame: `code` is 1005 when it carried none (RFC 6455 §7.1.5)."""

    code: int
    reason: str


class Drain(NamedTuple):
    """The place in the inbox where the application learns of a drain. Nothing of it is on the wire."""

    close_at_s: float
    """When our Close follows."""

    def seconds_left(self, now_s: float) -> float:
        """Return how long after `now_s` that is."""
        return max(0.0, self.close_at_s - now_s)


def is_close_code(code: int) -> bool:
    """Return whether `code` is allowed in a Close frame (RFC 6455 §7.4, and the registry of close codes)."""
    return 3000 <= code <= 4999 or (1000 <= code <= 1014 and code not in (1004, 1005, 1006))


def parse_close(payload: bytes) -> Close | Violation:
    """Parse the payload of a Close frame."""
    if not payload:
        return Close(1005, "")
    if len(payload) == 1:
        return Violation(errors.BAD_CLOSE_LENGTH, "Close frame of 1 byte, allowed: none, or 2 and more")
    code = int.from_bytes(payload[:2], "big")
    if not is_close_code(code):
        return Violation(errors.BAD_CLOSE_CODE, f"close code {code}, allowed: 1000-1003, 1007-1014, 3000-4999")
    try:
        return Close(code, payload[2:].decode("utf-8"))
    except UnicodeDecodeError:
        return Violation(errors.BAD_CLOSE_REASON, "close reason that is not UTF-8, allowed: UTF-8")


def check_close(code: object, reason: object) -> Close:
    """Check an application's close code and reason. Raises ValueError or TypeError when no frame can carry them."""
    if not isinstance(code, int):
        raise TypeError(f"close code {code!r}, allowed: an int")
    if not is_close_code(code):
        raise ValueError(f"close code {code}, allowed: 1000-1003, 1007-1014, 3000-4999 (RFC 6455 section 7.4)")
    if not isinstance(reason, str):
        raise TypeError(f"close reason {reason!r}, allowed: a str")
    size = len(reason.encode("utf-8"))
    # §5.5: a control frame holds at most 125 bytes, two of which are the code
    if size > 123:
        raise ValueError(f"close reason of {size} bytes, limit 123 (RFC 6455 section 5.5)")
    return Close(int(code), reason)


def encode_close(close: Close) -> bytes:
    """Encode a Close frame, without payload for 1005, which is never sent (RFC 6455 §7.4.1).

    A reason of the server's own that is too long is cut between two characters.
    """
    if close.code == 1005:
        return encode_frame(FIN | CLOSE, b"")
    reason = close.reason.encode("utf-8")[:123].decode("utf-8", "ignore").encode("utf-8")
    return encode_frame(FIN | CLOSE, close.code.to_bytes(2, "big") + reason)
