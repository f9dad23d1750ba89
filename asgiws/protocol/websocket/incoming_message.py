"""A data message that arrives in pieces: its frames so far, and its bytes as they are inflated, decoded or kept.

Made by the receiver with the first frame of a message that does not take the fast path, and dropped when the message
is delivered, so that an idle connection holds none.
"""

from __future__ import annotations

import io
from typing import Final

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.websocket.deflate import Inflater
from asgiws.protocol.websocket.frames import TEXT
from asgiws.protocol.websocket.utf8 import DECODED_MOST_BYTES, TextReader

__all__ = ["BAD_TEXT", "IncomingMessage", "check_text"]

BAD_TEXT: Final = Violation(errors.BAD_UTF8, "text that is not UTF-8, allowed: UTF-8")

_PIECE_BYTES: Final = 64 * 1024


class IncomingMessage:
    """One message, and where the receiver is in its present frame."""

    __slots__ = (
        "_inflated", "_inflater", "_kept", "_keeps", "_text", "empty_fragments", "final", "fragments", "key",
        "remaining", "wire_bytes",
    )  # fmt: skip

    def __init__(self, opcode: int, inflater: Inflater | None, whole_bytes: int | None) -> None:
        """`whole_bytes` is the size of a message in one frame. A compressed message has an `inflater`."""
        self._inflater = inflater
        self._inflated = bytearray()
        # A text in one frame is decoded as it arrives; other texts are checked as they arrive, and decoded at the end.
        decodes = opcode == TEXT and inflater is None and whole_bytes is not None and whole_bytes <= DECODED_MOST_BYTES
        self._text = TextReader(keep=decodes) if opcode == TEXT else None
        self._keeps = inflater is None and not decodes
        self._kept: io.BytesIO | None = None
        self.fragments = 0
        self.empty_fragments = 0
        self.wire_bytes = 0
        """The sizes of its frames so far, by their headers."""
        self.final = False
        """Whether the present frame is the last one."""
        self.key = b""
        """The masking key, turned to the next byte of the frame."""
        self.remaining = 0
        """Bytes of the frame that have not arrived."""

    @property
    def compressed(self) -> bool:
        """Whether the message is compressed."""
        return self._inflater is not None

    @property
    def held_bytes(self) -> int:
        """Bytes and characters that are kept."""
        return len(self._inflated) + (self._kept.tell() if self._kept else 0) + (self._text.size if self._text else 0)

    def feed(self, chunk: bytes) -> Violation | None:
        """Add payload bytes, unmasked."""
        if self._inflater is not None:
            before = len(self._inflated)
            fault = self._inflater.feed(chunk, self._inflated, self.wire_bytes)
            return check_text(self._text, self._inflated, before) or fault
        if self._kept is not None:
            self._kept.write(chunk)
        elif self._keeps:
            self._kept = io.BytesIO(chunk)  # which shares these bytes: a message of one piece is not copied
            self._kept.seek(0, io.SEEK_END)
        return None if self._text is None or self._text.feed(chunk) else BAD_TEXT

    def finish(self) -> str | bytes | Violation:
        """End the message; return its content."""
        text = self._text
        if self._inflater is not None:
            before = len(self._inflated)
            fault = self._inflater.finish(self._inflated, self.wire_bytes)
            fault = check_text(text, self._inflated, before) or fault
            if fault is not None:
                return fault
        if text is not None and not text.finish():
            return BAD_TEXT
        if text is not None and text.keeps:
            return text.text()
        whole = self._kept.getvalue() if self._kept is not None else self._inflated
        return bytes(whole) if text is None else whole.decode()


def check_text(text: TextReader | None, inflated: bytearray, before: int) -> Violation | None:
    """Check what was inflated, from `before` on: it precedes the fault that inflating may have met after it."""
    if text is not None:
        # In pieces, so that a large one is not copied twice
        for at in range(before, len(inflated), _PIECE_BYTES):
            if not text.feed(bytes(inflated[at : at + _PIECE_BYTES])):
                return BAD_TEXT
    return None
