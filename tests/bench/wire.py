"""Bytes that clients send, made before anything is measured."""

from __future__ import annotations

import json
import random
import struct
import zlib

from tests.raw import frame, handshake

BROWSER_OFFER = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
CLOSE = frame(8, b"\x03\xe8")
TEXT, BINARY = 1, 2
_RSV1 = 4
_CLIENT_WINDOW_BITS = 12
"""What the peers agree to at least: a client's window may be 2^12 bytes."""


BROWSER_FIELDS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "Pragma: no-cache", "Cache-Control: no-cache", "Origin: http://localhost:8000",
    "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: en-US,en;q=0.9",
    "Cookie: session=0123456789abcdef0123456789abcdef", BROWSER_OFFER,
)  # fmt: skip
"""What Chrome's handshake has beside the fields that every one has."""


def opening(path: str, *, compression: bool = False) -> bytes:
    """A handshake; with a browser's offer of compression or without."""
    return handshake(path, *([BROWSER_OFFER] if compression else []))


def payload_of(size: int) -> bytes:
    """Visible ASCII."""
    return bytes(65 + i % 26 for i in range(26)) * (size // 26) + bytes(65 + i % 26 for i in range(size % 26))


def chinese_of(size: int) -> bytes:
    """UTF-8 in which a character takes three bytes, but for the last one or two."""
    text = "\u4e00\u4e8c\u4e09\u56db\u4e94".encode()
    return (text * (size // len(text) + 1))[: size - size % 3] + b"a" * (size % 3)


def client_frame(opcode: int, size: int) -> bytes:
    return frame(opcode, payload_of(size))


def client_frame_bytes(size: int) -> int:
    """How long a client's frame is."""
    return server_frame_bytes(size) + 4


def server_frame(opcode: int, payload: bytes) -> bytes:
    return frame(opcode, payload, key=None)


def server_frame_bytes(size: int) -> int:
    """How long a server's frame is."""
    return size + (2 if size < 126 else 4 if size < 65536 else 10)


def records(size: int, count: int) -> list[bytes]:
    """Different JSON objects of exactly `size` bytes, at least 100, that compress as such things do."""
    chance = random.Random(1)
    return [_record(chance, size, number) for number in range(count)]


def _record(chance: random.Random, size: int, number: int) -> bytes:
    rows: list[dict[str, object]] = []
    record = {"type": "tick", "number": number, "rows": rows, "note": ""}
    length = len(json.dumps(record))
    while True:
        row = {
            "id": chance.randrange(10**8),
            "symbol": chance.choice(["EURUSD", "GBPUSD", "USDJPY", "AUDNZD"]),
            "price": round(chance.uniform(0.5, 200), 5),
            "side": chance.choice(["buy", "sell"]),
        }
        row_length = len(json.dumps(row)) + 2  # with its comma, but for the first one
        if length + row_length > size:
            break
        length += row_length if rows else row_length - 2
        rows.append(row)
    record["note"] = "".join(chance.choices("abcdefghijklmnop", k=size - length))
    return json.dumps(record).encode()


def compressed_frame(payload: bytes) -> bytes:
    """A compressed text frame that any permessage-deflate context takes: it refers to nothing before it."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, -_CLIENT_WINDOW_BITS)
    data = deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH)
    assert data.endswith(b"\x00\x00\xff\xff")
    return frame(TEXT, data[:-4], rsv=_RSV1)


def frame_end(data: bytes, at: int) -> int:
    """Where the server's frame that begins at `at` ends; beyond the data when more has to come."""
    if len(data) < at + 2:
        return at + 2
    size = data[at + 1]
    if size < 126:
        return at + 2 + size
    if size == 126:
        return at + 4 + int(struct.unpack_from("!H", data, at + 2)[0]) if len(data) >= at + 4 else at + 4
    return at + 10 + int(struct.unpack_from("!Q", data, at + 2)[0]) if len(data) >= at + 10 else at + 10
