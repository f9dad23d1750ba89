"""Request heads that were parsed lately. A client sends the same fields with each request, for one target or many."""

from __future__ import annotations

from typing import Final

from asgiws.protocol.errors import Violation
from asgiws.protocol.http.head import RequestHead, parse_head, with_start
from asgiws.protocol.limits import Limits

__all__ = ["HeadCache"]

# At most so many heads, none larger: together they are below 8 MiB.
_HEADS_MOST: Final = 512
_HEAD_MOST_BYTES: Final = 2048


class HeadCache:
    """Parses heads, and remembers those without a violation until it is cleared.

    Heads are known by the bytes of their version and fields, so that only method and target are parsed again.
    Handshakes are not kept: each has a key of its own. A full cache keeps what it has: where there are more clients
    than it has room for, some are known, and the others cost a look-up.
    """

    __slots__ = ("_heads", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heads: dict[bytes, tuple[bytes, RequestHead]] = {}
        """By the bytes from the space before the version to the end: the bytes before, and the head."""

    def __len__(self) -> int:
        return len(self._heads)

    def clear(self) -> None:
        """Forget all heads."""
        self._heads.clear()

    def parse(self, head: bytes) -> RequestHead | Violation:
        """Parse a whole head, with its final empty line, of at most `head_bytes`."""
        at = head.find(b" HTTP/1.")
        start, fields = head[:at], head[at:]
        known = self._heads.get(fields)
        if known is not None:
            if known[0] == start:
                return known[1]
            parsed = with_start(known[1], start, self._limits)
            if parsed is not None:
                if len(head) <= _HEAD_MOST_BYTES:
                    self._heads[fields] = start, parsed
                return parsed
        whole = parse_head(head[:-4], self._limits)
        if (
            len(self._heads) < _HEADS_MOST
            and len(head) <= _HEAD_MOST_BYTES
            and isinstance(whole, RequestHead)
            and not (whole.upgrade or whole.upgrade_lost)
            and start[len(whole.method) + 1 :].startswith(b"/")  # an absolute target has replaced the Host field
        ):
            self._heads[fields] = start, whole
        return whole
