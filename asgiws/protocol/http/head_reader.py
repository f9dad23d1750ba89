"""Finds the request heads in a stream of bytes (RFC 9112 §2.2), and remembers those that it has parsed lately.

Bytes that cannot become a head are refused early. A client sends the same fields with each request, for one target or
many, so a head is known by the bytes of its fields.
"""

from __future__ import annotations

from typing import Final

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import TOKEN_BYTES
from asgiws.protocol.http.head import RequestHead, line_too_long, not_http, parse_head, with_start
from asgiws.protocol.limits import Limits

__all__ = ["HeadCache", "HeadReader"]

# At most so many heads, none larger: together they are below 8 MiB.
_HEADS_MOST: Final = 512
_HEAD_MOST_BYTES: Final = 2048

# The one line in which the handshakes of a client differ, as clients spell it (RFC 6455 §4.1, item 7)
_KEY_LINE: Final = b"\r\nSec-WebSocket-Key: "
_KEY_BYTES: Final = 24
_BASE64_BYTES: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="


class HeadCache:
    """Parses heads, and remembers those without a violation until it is cleared.

    Heads are known by the bytes of their version and fields, so that only method and target are parsed again. A
    handshake is known by those without its key. A full cache keeps what it has: where there are more
    clients than it has room for, some are known, and the others cost a look-up.
    """

    __slots__ = ("_handshakes", "_heads", "_limits")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._heads: dict[bytes, tuple[bytes, RequestHead]] = {}
        """By the bytes from the minor version to the end: method and target as sent, and the head."""
        self._handshakes: dict[bytes, tuple[bytes, RequestHead, int]] = {}
        """The same of handshakes, without the key; and the place of the key among the fields."""

    def __len__(self) -> int:
        return len(self._heads) + len(self._handshakes)

    def clear(self) -> None:
        """Forget all heads."""
        self._heads.clear()
        self._handshakes.clear()

    def parse(self, head: bytes) -> RequestHead | Violation:
        """Parse a whole head, with its final empty line, of at most `head_bytes`."""
        start, _, fields = head.partition(b" HTTP/1.")
        known = self._heads.get(fields)
        if known is not None:
            if known[0] == start:
                return known[1]
            parsed = with_start(known[1], start, self._limits)
            if parsed is not None:
                if len(head) <= _HEAD_MOST_BYTES:
                    self._heads[fields] = start, parsed
                return parsed
        elif (key_at := fields.find(_KEY_LINE)) >= 0:
            return self._parse_handshake(head, start, fields, key_at)
        whole = parse_head(head[:-4], self._limits)
        if isinstance(whole, RequestHead) and self._may_remember(head, start, whole) and not whole.upgrade:
            self._heads[fields] = start, whole
        return whole

    def _parse_handshake(self, head: bytes, start: bytes, fields: bytes, key_at: int) -> RequestHead | Violation:
        key_end = key_at + len(_KEY_LINE) + _KEY_BYTES
        value_at = key_end - _KEY_BYTES
        key, others = fields[value_at:key_end], fields[:value_at] + fields[key_end:]
        is_line = fields.startswith(b"\r\n", key_end) and not key.translate(None, _BASE64_BYTES)
        known = self._handshakes.get(others) if is_line else None
        if known is not None:
            like = known[1] if known[0] == start else with_start(known[1], start, self._limits)
            if like is not None:
                headers = like.headers.copy()
                headers[known[2]] = b"sec-websocket-key", key
                return RequestHead(*like[:-1], headers)
        whole = parse_head(head[:-4], self._limits)
        if is_line and isinstance(whole, RequestHead) and self._may_remember(head, start, whole) and whole.upgrade:
            places = [place for place, field in enumerate(whole.headers) if field[0] == b"sec-websocket-key"]
            if len(places) == 1:
                self._handshakes[others] = start, whole, places[0]
        return whole

    def _may_remember(self, head: bytes, start: bytes, whole: RequestHead) -> bool:
        return (
            len(self) < _HEADS_MOST
            and len(head) <= _HEAD_MOST_BYTES
            and not whole.upgrade_lost
            and start[len(whole.method) + 1 :].startswith(b"/")  # an absolute target has replaced the Host field
        )


class HeadReader:
    """Collects bytes until a whole request head is there.

    Cost is linear in the bytes fed, however they are cut. Bytes after the head stay in `buffer`: they are the body,
    the next request or WebSocket frames, and belong to the caller. Readers with the same limits may share a cache.
    """

    __slots__ = ("_cache", "_empty_line_seen", "_limits", "_scanned", "buffer")

    def __init__(self, limits: Limits, cache: HeadCache | None = None) -> None:
        self._limits = limits
        self._cache = HeadCache(limits) if cache is None else cache
        self._scanned = 0
        self._empty_line_seen = False
        self.buffer = bytearray()

    def feed(self, data: bytes) -> RequestHead | Violation | None:
        """Add bytes that arrived; return a head if one is complete, None while it can still become one."""
        if not self.buffer and data[:1] != b"\r":
            end = data.find(b"\r\n\r\n")
            if 0 < end == len(data) - 4 <= self._limits.head_bytes:
                # One head and nothing else, as almost always
                self._empty_line_seen = False
                return self._cache.parse(data)
        self.buffer += data
        return self.next_head()

    def next_head(self) -> RequestHead | Violation | None:
        """Remove one head from `buffer` and return it; return None while it can still become one."""
        buffer = self.buffer
        # RFC 9112 §2.2: a server SHOULD ignore at least one empty line before the request line
        if buffer.startswith(b"\r\n") and not self._empty_line_seen:
            del buffer[:2]
            self._scanned = 0
            self._empty_line_seen = True
        end = buffer.find(b"\r\n\r\n", max(0, self._scanned - 3))
        if end < 0:
            return self._check_incomplete()
        self._scanned = 0
        self._empty_line_seen = False
        if end > self._limits.head_bytes:
            return self._too_large(end)
        head = bytes(buffer[: end + 4])
        del buffer[: end + 4]
        return self._cache.parse(head)

    def _check_incomplete(self) -> Violation | None:
        """Refuse at once what no further byte can make a request head."""
        buffer, limits = self.buffer, self._limits
        if not buffer:
            return None
        size = len(buffer)
        if buffer[0] not in TOKEN_BYTES and buffer != b"\r":
            return not_http(bytes(buffer[:8]))
        seen = self._scanned
        fresh = bytes(buffer[seen - 1 if seen and buffer[seen - 1] == 0x0D else seen :])
        if fresh.count(b"\n") != fresh.count(b"\r\n"):
            return Violation(errors.BARE_LINE_END, "line end without CR, lines end with CR LF")
        self._scanned = size
        # Searched once, when as many bytes are there as the longest line has with its end
        longest = limits.request_line_bytes + 2
        if seen < longest <= size and buffer.find(b"\r\n", 0, longest) < 0:
            return self._too_large(size)
        return self._too_large(size) if size > limits.head_bytes + 3 else None

    def _too_large(self, size: int) -> Violation:
        line_end = self.buffer.find(b"\r\n")
        line_bytes = size if line_end < 0 else line_end
        if line_bytes > self._limits.request_line_bytes:
            return line_too_long(line_bytes, self._limits)
        return Violation(
            errors.HEAD_TOO_LARGE, f"request head of {size} bytes or more, limit {self._limits.head_bytes}"
        )
