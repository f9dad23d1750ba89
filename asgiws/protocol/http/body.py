"""Request bodies of HTTP/1.1 (RFC 9112 §6.2 and §7.1).

A body reader takes what it can from the connection's buffer and returns decoded bytes, or the `Violation` that ends the
connection. It owns no buffer: bytes after the body stay in the buffer as the next request.
"""

from __future__ import annotations

from typing import Final

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import printable
from asgiws.protocol.http.head import RequestHead, parse_fields
from asgiws.protocol.limits import Limits

__all__ = ["BodyReader", "ChunkedBody", "LengthBody", "body_reader"]

# A size and an extension; the bytes that a chunk may cost in addition to its data
_CHUNK_LINE_BYTES: Final = 1024
_HEX_DIGITS: Final = b"0123456789abcdefABCDEF"
_EXTENSION_BYTES: Final = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])


class LengthBody:
    """A body of known length; `complete` once all of it was read."""

    __slots__ = ("_remaining", "complete")

    def __init__(self, length: int) -> None:
        self._remaining = length
        self.complete = length == 0

    def is_longer_than(self, size: int) -> bool:
        """Return whether more than `size` bytes may still come."""
        return self._remaining > size

    def feed(self, data: bytes, buffer: bytearray) -> bytes | Violation:
        """Read body bytes that follow those in `buffer`; bytes beyond the body stay there."""
        if buffer or len(data) > self._remaining:
            buffer += data
            return self.read(buffer)
        # The usual case, without a copy
        self._remaining -= len(data)
        self.complete = self._remaining == 0
        return data

    def read(self, buffer: bytearray) -> bytes | Violation:
        """Remove body bytes from the front of `buffer` and return them; b"" when there are none yet."""
        if len(buffer) <= self._remaining:
            data = bytes(buffer)
            buffer.clear()
        else:
            data = bytes(buffer[: self._remaining])
            del buffer[: self._remaining]
        self._remaining -= len(data)
        self.complete = self._remaining == 0
        return data


class ChunkedBody:
    """A chunked body: a state machine over the buffer.

    States: SIZE (a chunk-size line), DATA (chunk data), DATA_END (the CR LF after it), TRAILERS (field lines up to an
    empty one), and then `complete`. Trailer fields are checked and dropped: ASGI has no place for them,
    and merging them into the head is what trailer smuggling needs.
    """

    SIZE, DATA, DATA_END, TRAILERS = range(4)
    __slots__ = ("_limits", "_remaining", "_scanned", "_state", "_total", "_trailer_bytes", "complete")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._state = self.SIZE
        self._remaining = 0
        self._scanned = 0
        self._total = 0
        self._trailer_bytes = 0
        self.complete = False

    def is_longer_than(self, size: int) -> bool:
        """Return whether more than `size` bytes may still come: yes, until the last chunk has arrived."""
        return not self.complete

    def feed(self, data: bytes, buffer: bytearray) -> bytes | Violation:
        """Append bytes to `buffer`, and read from it."""
        buffer += data
        return self.read(buffer)

    def read(self, buffer: bytearray) -> bytes | Violation:
        """Remove chunks from the front of `buffer` and return their data joined; b"" when there is none yet.

        Linear in the bytes taken: a chunk of one byte costs a step, never a copy of the rest.
        """
        pieces: list[bytes] = []
        at = 0
        while not self.complete:
            if self._state == self.DATA:
                piece = bytes(buffer[at : at + self._remaining])
                if not piece:
                    break
                pieces.append(piece)
                at += len(piece)
                self._remaining -= len(piece)
                if self._remaining == 0:
                    self._state = self.DATA_END
            elif self._state == self.DATA_END:
                end = bytes(buffer[at : at + 2])
                if not b"\r\n".startswith(end):
                    return Violation(errors.BAD_CHUNK_END, f"{printable(end)} after chunk data, allowed: CR LF")
                if len(end) < 2:
                    break
                at += 2
                self._state = self.SIZE
            else:
                line = self._take_line(buffer, at)
                if line is None:
                    break
                if isinstance(line, Violation):
                    return line
                at += len(line) + 2
                fault = self._on_size(line) if self._state == self.SIZE else self._on_trailer(line)
                if fault is not None:
                    return fault
        del buffer[:at]
        self._scanned = max(0, self._scanned - at)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _take_line(self, buffer: bytearray, at: int) -> bytes | Violation | None:
        in_trailers = self._state == self.TRAILERS
        limit = self._limits.head_bytes if in_trailers else _CHUNK_LINE_BYTES
        end = buffer.find(b"\n", max(at, self._scanned))
        # Without its end; the last byte of an incomplete line may be the CR of it
        size = (len(buffer) if end < 0 else end) - 1 - at
        if in_trailers and self._trailer_bytes + size > limit:
            return Violation(
                errors.TRAILERS_TOO_LARGE, f"trailers of {self._trailer_bytes + size} bytes or more, limit {limit}"
            )
        if size > limit:
            return Violation(errors.CHUNK_LINE_TOO_LONG, f"chunk-size line of {size} bytes or more, limit {limit}")
        if end < 0:
            self._scanned = len(buffer)
            return None
        self._scanned = 0
        if end == at or buffer[end - 1] != 0x0D:
            rule = errors.BAD_TRAILER if in_trailers else errors.BAD_CHUNK_SIZE
            return Violation(rule, "line end without CR in a chunked body, lines end with CR LF")
        return bytes(buffer[at : end - 1])

    def _on_size(self, line: bytes) -> Violation | None:
        # RFC 9112 §7.1: chunk-size = 1*HEXDIG, and no sign, prefix, underscore or surrounding space
        digits, semicolon, extension = line.partition(b";")
        if semicolon:
            digits = digits.rstrip(b" \t")  # §7.1.1: BWS is allowed before the semicolon
            if extension.translate(None, _EXTENSION_BYTES):
                return Violation(errors.BAD_CHUNK_EXTENSION, "control character in a chunk extension, allowed: text")
        # Leading zeros are not counted; 15 digits without them are below 2^60.
        if not digits or len(digits.lstrip(b"0")) > 15 or digits.translate(None, _HEX_DIGITS):
            return Violation(
                errors.BAD_CHUNK_SIZE, f"chunk size {printable(digits)}, allowed: 1 to 15 hexadecimal digits"
            )
        self._remaining = int(digits, 16)
        self._total += self._remaining
        limit = self._limits.body_bytes
        if limit and self._total > limit:
            return Violation(errors.BODY_TOO_LARGE, f"body of {self._total} bytes or more, limit {limit}")
        self._state = self.DATA if self._remaining else self.TRAILERS
        return None

    def _on_trailer(self, line: bytes) -> Violation | None:
        if not line:
            self.complete = True
            return None
        self._trailer_bytes += len(line) + 2
        if line.translate(None, _EXTENSION_BYTES):
            return Violation(errors.BAD_TRAILER, "control character in a trailer field, allowed: tab")
        if isinstance(parse_fields([line]), Violation):
            return Violation(errors.BAD_TRAILER, f"trailer {printable(line)}, allowed: token, colon, value")
        return None


BodyReader = LengthBody | ChunkedBody


def body_reader(head: RequestHead, limits: Limits) -> BodyReader:
    """Return the reader of the body that `head` announces (RFC 9112 §6.3)."""
    return ChunkedBody(limits) if head.chunked else LengthBody(head.content_length or 0)
