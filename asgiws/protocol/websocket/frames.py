"""Frames on the wire (RFC 6455 §5.2): opcodes, and the encoder for what a server sends.

A server never masks (§5.1), so a frame is a header and the payload. Headers of short frames come from a table.
"""

from __future__ import annotations

from typing import Final

__all__ = [
    "BINARY", "BINARY_HEADS", "CLOSE", "CONTINUATION", "FIN", "OPCODE_NAMES", "PING", "PONG", "RSV1", "TEXT",
    "TEXT_HEADS", "encode_frame", "frame_head",
]  # fmt: skip

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RSV1: Final = 0x40

OPCODE_NAMES: Final = {
    CONTINUATION: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "Close", PING: "ping", PONG: "pong",
}  # fmt: skip

TEXT_HEADS: Final = tuple(bytes((FIN | TEXT, size)) for size in range(126))
"""Headers of whole uncompressed text frames of 0 to 125 bytes."""
BINARY_HEADS: Final = tuple(bytes((FIN | BINARY, size)) for size in range(126))


def frame_head(first_byte: int, size: int) -> bytes:
    """Encode the header of an unmasked frame; `first_byte` is FIN, RSV bits and opcode."""
    # §5.2: the minimal number of bytes MUST be used to encode the length
    if size < 126:
        return bytes((first_byte, size))
    if size < 0x10000:
        return bytes((first_byte, 126, size >> 8, size & 0xFF))
    return bytes((first_byte, 127)) + size.to_bytes(8, "big")


def encode_frame(first_byte: int, payload: bytes) -> bytes:
    """Encode one unmasked frame."""
    return frame_head(first_byte, len(payload)) + payload
