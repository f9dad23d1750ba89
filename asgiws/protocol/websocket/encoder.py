"""Messages of the application as frames: encoded once, sent to many.

An application broadcasts by sending the same object to one connection after another. The encoder of a worker keeps the
last message and its frame, so that a broadcast is encoded and compressed once. The memo holds the message itself and
compares identity: an equal message of another type (`True` and `1`, text and bytes) is never taken for it, and its
address cannot be reused while it is remembered. The sweep clears the memo every second, so that a large message does
not outlive its use.

Compressing a megabyte takes 20 to 40 ms at level 1, in which the loop would be blocked (16 MiB of JSON: 0.35 s, zlib
1.3 on one core of 2026). From `large_from` on, `encode_alone` does it, which any thread may call. Without compression,
`encode_parts` does not copy the payload of a large message after its header.
"""

from __future__ import annotations

from typing import Final

from asgiws.protocol.websocket.deflate import Deflater, DeflateSettings
from asgiws.protocol.websocket.frames import BINARY, BINARY_HEADS, FIN, RSV1, TEXT, TEXT_HEADS, encode_frame, frame_head

__all__ = ["LARGE_SIZE", "PARTS_SIZE", "Encoder"]

LARGE_SIZE: Final = 256 * 1024
"""Characters or bytes from which a message is compressed off the loop; below, the hop costs more than it saves."""
PARTS_SIZE: Final = 128 * 1024
"""Characters or bytes from which a message is sent in parts; below, two writes cost more than a copy."""


class Encoder:
    """Encodes text and binary messages; with a deflater, compresses those of at least the minimum size.

    One without takeover serves all connections of a worker with the same agreement, and has a memo. One whose deflater
    keeps its window serves one connection, and has no memo.
    """

    __slots__ = (
        "_deflater", "_min_size", "_parted", "_parts", "compressed_from", "compressed_to", "compresses", "frame",
        "large_from", "message", "shared",
    )  # fmt: skip

    def __init__(self, settings: DeflateSettings, deflater: Deflater | None, memo: bool) -> None:
        self._deflater = deflater
        self._min_size = settings.min_size_bytes
        self.shared = memo
        """Whether it serves many connections."""
        self.compresses = deflater is not None
        self.large_from = LARGE_SIZE if self.compresses else PARTS_SIZE
        """The size from which `encode_alone` and `remember`, or `encode_parts`, replace `encode`."""
        self.message: str | bytes | None = None
        """The message last encoded; `frame` is its frame, to be sent again for the same object."""
        self.frame = b""
        self._parted: str | bytes | None = None
        """The message last encoded in parts."""
        self._parts = b"", b""
        self.compressed_from = 0
        """Bytes before compression, of the messages that were compressed; characters of large texts."""
        self.compressed_to = 0

    def encode(self, message: str | bytes) -> bytes:
        """Return the frame of a message that was not the last one. Raises UnicodeEncodeError for a lone surrogate."""
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
        if self.shared:
            self.message = message
            self.frame = frame
        return frame

    def encode_parts(self, message: str | bytes) -> tuple[bytes, bytes]:
        """Return header and payload of a large message that is not compressed, and remember them."""
        if message is not self._parted:
            payload, opcode = (message.encode(), TEXT) if isinstance(message, str) else (message, BINARY)
            self._parts = frame_head(FIN | opcode, len(payload)), payload
            self._parted = message
        return self._parts

    def encode_alone(self, message: str | bytes) -> bytes:
        """Return the compressed frame of a large message and change nothing; `remember` it when it is sent."""
        assert self._deflater is not None
        payload, opcode = (message.encode(), TEXT) if isinstance(message, str) else (message, BINARY)
        return encode_frame(FIN | RSV1 | opcode, self._deflater.compress_alone(payload))

    def remember(self, message: str | bytes, frame: bytes) -> None:
        """Record that the frame of a large message is sent now."""
        assert self._deflater is not None
        self.compressed_from += len(message)
        self.compressed_to += len(frame)
        if self.shared:
            self.message = message
            self.frame = frame
        else:
            self._deflater.forget_window()

    @property
    def own_compression(self) -> tuple[int, int]:
        """Bytes before and after compression; none of an encoder that many connections share."""
        return (0, 0) if self.shared else (self.compressed_from, self.compressed_to)

    def forget(self) -> None:
        """Clear the memo."""
        self.message = self._parted = None
        self.frame = b""
        self._parts = b"", b""
