"""What a message is on a broker's channel: plain data, or data behind a mark.

    bytes of the payload                        the message
    valid UTF-8                                 text
    MARK "t" data                               text
    MARK "b" data                               bytes
    MARK "T" origin number data                 text, which one connection does not get
    MARK "B" origin number data                 bytes, which one connection does not get
    MARK "k" position " " data                  text that is kept, with its position
    MARK "K" origin number position " " data    the same, which one connection does not get
    anything else                               bytes

MARK is the byte 0xFF and "asgi". No UTF-8 contains 0xFF, so a program in any language publishes text as it is.
`origin` (8 bytes) names the worker that published, and `number` (8 bytes) what it calls the connection.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from asgiws.topics.history import UNKNOWN, Position, parse_position

__all__ = ["MARK", "OVERHEAD_BYTES", "Payload", "decode_payload", "encode_payload", "kept_head"]

MARK: Final = b"\xffasgi"
_KIND: Final = len(MARK)
_DATA: Final = _KIND + 1
_ID_BYTES: Final = 8
_DATA_AFTER_IDS: Final = _DATA + 2 * _ID_BYTES
_POSITION_MOST_BYTES: Final = 64
OVERHEAD_BYTES: Final = _DATA_AFTER_IDS + _POSITION_MOST_BYTES
"""How much longer than its data a payload may be."""


class Payload(NamedTuple):
    """What a payload says."""

    data: str | bytes
    origin: bytes = b""
    """The worker that published, 8 bytes; empty where every connection gets the message."""
    number: int = 0
    """What that worker calls the connection that does not get it."""
    at: Position | None = None
    """The position of a text that is kept."""


def encode_payload(data: str | bytes, origin: bytes = b"", number: int = 0) -> bytes:
    """Encode a message; `origin` and `number` where one connection does not get it."""
    is_text = isinstance(data, str)
    raw = data.encode() if isinstance(data, str) else data
    if origin:
        return MARK + (b"T" if is_text else b"B") + origin + number.to_bytes(_ID_BYTES) + raw
    return raw if is_text else MARK + b"b" + raw


def kept_head(origin: bytes = b"", number: int = 0) -> bytes:
    """Return what precedes the position and the text of a message that is kept."""
    return MARK + b"K" + origin + number.to_bytes(_ID_BYTES) if origin else MARK + b"k"


def decode_payload(payload: bytes) -> Payload:
    """Decode any bytes."""
    if payload[:1] != MARK[:1]:
        return Payload(_text_or_bytes(payload))
    if payload[:_KIND] == MARK:
        kind = payload[_KIND:_DATA]
        if kind == b"b":
            return Payload(payload[_DATA:])
        if kind == b"t":
            return Payload(_text_or_bytes(payload[_DATA:]))
        if kind == b"k":
            return _kept(payload, _DATA, b"", 0)
        if kind in (b"T", b"B", b"K") and len(payload) >= _DATA_AFTER_IDS:
            origin = payload[_DATA : _DATA + _ID_BYTES]
            number = int.from_bytes(payload[_DATA + _ID_BYTES : _DATA_AFTER_IDS])
            if kind == b"K":
                return _kept(payload, _DATA_AFTER_IDS, origin, number)
            raw = payload[_DATA_AFTER_IDS:]
            return Payload(raw if kind == b"B" else _text_or_bytes(raw), origin, number)
    return Payload(payload)


def _kept(payload: bytes, start: int, origin: bytes, number: int) -> Payload:
    """Decode a position and a text; what is not both is bytes."""
    space = payload.find(b" ", start, start + _POSITION_MOST_BYTES)
    text = _text_or_bytes(payload[space + 1 :])
    at = parse_position(payload[start : max(start, space)].decode("latin-1"))
    return Payload(payload) if at == UNKNOWN or isinstance(text, bytes) else Payload(text, origin, number, at)


def _text_or_bytes(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
