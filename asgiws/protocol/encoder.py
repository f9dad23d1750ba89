"""Messages of the application as frames: encoded once, sent to many.

An application broadcasts by sending the same object to one connection after the other. The encoder of a worker keeps
the last message and its frame, so that only the first of them is encoded and compressed. The memo holds the message
itself and compares identity: an equal message of another type (`True` and `1`, text and bytes) can never be taken for
it, and the object cannot be freed and its address reused while it is remembered.
"""

from __future__ import annotations

from typing import Final

from asgiws.protocol.deflate import Deflater, DeflateSettings
from asgiws.protocol.frames import BINARY, BINARY_HEADS, FIN, RSV1, TEXT, TEXT_HEADS, encode_frame

__all__ = ["Encoder"]

# A larger message is worth no memory that outlives it.
_MEMO_MOST_BYTES: Final = 1024 * 1024


class Encoder:
    """Encodes text and binary messages; with a deflater, compresses those of at least the minimum size.

    One with a memo serves all connections of a worker that negotiated the same. One whose deflater keeps its window
    serves one connection, and has no memo.
    """

    __slots__ = ("_deflater", "_memo", "_min_size", "compressed_from", "compressed_to", "frame", "message")

    def __init__(self, settings: DeflateSettings, deflater: Deflater | None, memo: bool) -> None:
        self._deflater = deflater
        self._min_size = settings.min_size_bytes
        self._memo = memo
        self.message: str | bytes | None = None
        """The message last encoded, and its frame: who is about to send the same object sends this."""
        self.frame = b""
        self.compressed_from = 0
        """Payload bytes before compression, of the messages that were compressed."""
        self.compressed_to = 0

    def encode(self, message: str | bytes) -> bytes:
        """Give the frame of a message that was not the last one. Raises UnicodeEncodeError for a lone surrogate."""
        if isinstance(message, str):
            payload, opcode, heads = message.encode(), TEXT, TEXT_HEADS
        else:
            payload, opcode, heads = message, BINARY, BINARY_HEADS
        size = len(payload)
        if self._deflater is not None and size >= self._min_size:
            payload = self._deflater.compress(payload)
            self.compressed_from += size
            self.compressed_to += len(payload)
            frame = encode_frame(FIN | RSV1 | opcode, payload)
        elif size < 126:
            frame = heads[size] + payload
        else:
            frame = encode_frame(FIN | opcode, payload)
        if self._memo and size <= _MEMO_MOST_BYTES:
            self.message = message
            self.frame = frame
        return frame
