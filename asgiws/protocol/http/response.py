"""Responses of HTTP/1.1: the messages of an application as bytes (RFC 9112 §4, §6 and §7; RFC 9110 §8.6).

`Response` frames one response: by Content-Length where the application sets one or sends the body in one piece,
chunked for HTTP/1.1 otherwise, by the end of the connection for HTTP/1.0. It never writes: each method returns the
bytes to send. Input that would make the response ambiguous (a control character in a field, a second length, more or
fewer bytes than promised) raises.

States (`ResponseState`), moved only by the methods here:

    NOT_STARTED -> start() -> BODY -> body(more=False) -> DONE, or TRAILERS -> trailers(more=False) -> DONE
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Final

from asgiws.protocol.http.fields import LOWER_NAMES, TEXT_BYTES, TOKEN_BYTES, Header, header_tokens, printable

__all__ = ["STATUS_LINES", "Response", "ResponseState", "encode_fields", "without_field"]


class ResponseState:
    """What the application owes next: the head, body, trailers or nothing."""

    NOT_STARTED, BODY, TRAILERS, DONE = range(4)


_PHRASES: Final[Mapping[int, str]] = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINES: Final[Mapping[int, bytes]] = {
    status: b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, "").encode()) for status in range(100, 600)
}
"""By status. The space stays where there is no reason phrase (RFC 9112 §4)."""
# Fields that an application may not set: framing and the connection are the server's (RFC 9110 §7.6.1, ASGI H11).
_CONNECTION_FIELDS: Final = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding"))
# The fields of a response that the server reads.
_DECIDING: Final = _CONNECTION_FIELDS | frozenset((b"content-length", b"content-type", b"date", b"server"))
_TRAILER_FORBIDDEN: Final = _CONNECTION_FIELDS | frozenset(
    # RFC 9110 §6.5.1: fields needed for framing, routing, authentication or that describe the content
    b"content-length host trailer te authorization set-cookie content-type content-encoding content-range".split()
)


# Of longer fields each is checked: what is remembered stays below a megabyte.
_KNOWN_MOST_BYTES: Final = 256


def encode_field(name: object, value: object) -> Header:
    """Return the name of an application's field in lower case, and its line. Raises ValueError or TypeError."""
    if not isinstance(name, bytes) or not isinstance(value, bytes):
        raise TypeError(f"header {name!r}: {value!r}, allowed: name and value as bytes")
    return (_known_field if len(name) + len(value) <= _KNOWN_MOST_BYTES else _encode_field)(name, value)


def _encode_field(name: bytes, value: bytes) -> Header:
    field = LOWER_NAMES.get(name)
    if field is None:
        if not name or name.translate(None, TOKEN_BYTES):
            raise ValueError(f"header name {name!r}, allowed: a token (RFC 9110 section 5.1)")
        field = name.lower()
    # RFC 9110 §5.5: CR, LF and NUL are invalid and dangerous, "other CTL characters are also invalid"
    if value.translate(None, TEXT_BYTES):
        raise ValueError(
            f"header {name.decode()}: {value!r}, allowed: no CR, LF or NUL, of control characters tab "
            "(RFC 9110 section 5.5)"
        )
    return field, b"%s: %s\r\n" % (field, value)


# Applications send many equal fields. They are checked once.
_known_field: Final = lru_cache(1024)(_encode_field)


def encode_fields(fields: Iterable[tuple[object, object]]) -> bytes:
    """Encode fields of the application, checked, in the order given (ASGI H10)."""
    return b"".join([encode_field(name, value)[1] for name, value in fields])


class Response:
    """One response to one request.

    `keep_alive` starts as what the request allows and becomes False when the response needs the connection's end.
    """

    __slots__ = (
        "_bodyless", "_chunked", "_head", "_head_only", "_http_1_0", "_te_trailers", "_trailers", "event_stream",
        "keep_alive", "length", "sent_bytes", "state", "status",
    )  # fmt: skip

    def __init__(self, head_only: bool, http_1_0: bool, keep_alive: bool, te_trailers: bool = False) -> None:
        """`head_only` for HEAD; `te_trailers` when the request has `TE: trailers` (RFC 9110 §6.5.1)."""
        self._head_only = head_only
        self._http_1_0 = http_1_0
        self._te_trailers = te_trailers
        self._bodyless = head_only
        self._trailers = False
        self._chunked = False
        self._head: list[bytes] = []
        """Lines that wait for the first piece of the body, with which the framing is known."""
        self.event_stream = False
        """Whether the body is a stream of server-sent events (WHATWG HTML §9.2): it has no end of its own."""
        self.length: int | None = None
        """The content-length that the application set."""
        self.sent_bytes = 0
        """Bytes of the body that were returned to be sent; who sends those of a file adds them."""
        self.keep_alive = keep_alive
        self.state = ResponseState.NOT_STARTED
        self.status = 0

    def start(self, status: object, headers: Iterable[Iterable[object]], default_fields: bytes, trailers: bool) -> None:
        """Store the head of the response; it leaves with the first body bytes (ASGI H13).

        `default_fields` are encoded fields that the server adds, without the Date and Server that the application sets.
        Raises ValueError or TypeError, and the state stays, when the head cannot be sent as it is.
        """
        if not isinstance(status, int) or not 200 <= status <= 599:
            # RFC 9110 §15: values outside the range 100..599 are invalid
            raise ValueError(f"status {status!r}, allowed: 200 to 599")
        length: int | None = None
        length_line = b""
        lines = [STATUS_LINES[status]]
        close = event_stream = False
        for name, value in headers:
            field, line = encode_field(name, value)
            if field not in _DECIDING:
                lines.append(line)
            elif field == b"content-type":
                lines.append(line)
                event_stream = line[14:31].lower() == b"text/event-stream"
            elif field == b"content-length":
                text = line[16:-2]
                if length is not None or not text.isdigit():
                    raise ValueError(f"content-length {printable(text)}, allowed: one decimal number, once")
                length, length_line = int(text), line
            elif field in _CONNECTION_FIELDS:
                close = close or (field == b"connection" and b"close" in header_tokens([line[12:-2]]))
            else:
                default_fields = without_field(default_fields, field)
                lines.append(line)
        lines.append(default_fields)
        if status != 204:
            lines.append(length_line)

        self.status = int(status)  # from an application also http.HTTPStatus
        self.keep_alive = self.keep_alive and not close
        self.event_stream = event_stream and length is None
        # RFC 9110 §8.6 and §15.3.5, §15.4.5: 204 and 304 have no body; HEAD has the fields of a body, not the body
        self._bodyless = self._head_only or status in (204, 304)
        self.length = length
        self._trailers = trailers
        self._head = lines
        self.state = ResponseState.BODY

    def body(self, data: bytes, more: bool) -> bytes:
        """Return the bytes that send `data`, after the head if that was not sent yet.

        Raises ValueError when the body is longer or shorter than its content-length; nothing counts as sent then.
        """
        before, after = self.reserve(len(data), more)
        if self._bodyless:
            return before
        self.sent_bytes += len(data)
        return b"".join((before, data, after)) if after else before + data

    def reserve(self, count: int, more: bool) -> tuple[bytes, bytes]:
        """Return what to send before and after `count` bytes that do not pass through this object, as those of a file.

        The caller adds them to `sent_bytes` once they are sent. Raises as `body` does.
        """
        if self.length is not None and not self._bodyless:
            left = self.length - self.sent_bytes - count
            if left < 0:
                raise ValueError(f"body {-left} bytes longer than its content-length")
            if left and not more:
                raise ValueError(f"body {left} bytes shorter than its content-length")
        before = self._end_head(count, more) if self._head else b""
        after = b""
        if not more:
            self.state = ResponseState.TRAILERS if self._trailers else ResponseState.DONE
        if self._chunked:
            if count:
                before, after = b"%s%x\r\n" % (before, count), b"\r\n"
            if not more:
                after += b"0\r\n" if self.state == ResponseState.TRAILERS and self._te_trailers else b"0\r\n\r\n"
        return before, after

    def _end_head(self, count: int, more: bool) -> bytes:
        """Encode the head with its framing, for which the first `count` bytes of the body are there."""
        lines, self._head = self._head, []
        if self.length is None and self.status not in (204, 304):
            if not more and not self._trailers:
                # The whole body is here. But a response to HEAD without one leaves the length open.
                if count or not self._head_only:
                    lines.append(b"content-length: %d\r\n" % count)
            elif self._http_1_0:
                self.keep_alive = self.keep_alive and self._head_only
            else:
                lines.append(b"transfer-encoding: chunked\r\n")
                self._chunked = not self._head_only
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        elif self._http_1_0:
            lines.append(b"connection: keep-alive\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)

    def end_stream(self) -> bytes:
        """Return the bytes that end an event stream between two events, as the application would have ended it."""
        self.keep_alive = False
        head = self._end_head(0, more=True) if self._head else b""
        return head + b"0\r\n\r\n" if self._chunked else head

    @property
    def head_pending(self) -> bool:
        """Whether the head was not returned yet: another response may still take the place of this one."""
        return self.state == ResponseState.NOT_STARTED or bool(self._head)

    @property
    def sends_body(self) -> bool:
        """Whether body bytes go on the wire: not for HEAD, 204 and 304."""
        return not self._bodyless

    def trailers(self, fields: Iterable[tuple[object, object]], more: bool) -> bytes:
        """Return the bytes of trailer fields; b"" where the client or the framing has no place for them (ASGI E6)."""
        checked = [encode_field(name, value) for name, value in fields]
        for field, _ in checked:
            if field in _TRAILER_FORBIDDEN:
                raise ValueError(f"trailer {field.decode()}, allowed: no framing, routing or content field")
        if not more:
            self.state = ResponseState.DONE
        if not self._chunked or self._bodyless or not self._te_trailers:
            return b""
        return b"".join(line for _, line in checked) + (b"" if more else b"\r\n")


def without_field(fields: bytes, name: bytes) -> bytes:
    """Return encoded fields without those of one name: the application's own takes precedence over the server's."""
    return b"".join(line + b"\r\n" for line in fields.split(b"\r\n") if line and not line.startswith(name + b":"))
