"""permessage-deflate (RFC 7692): negotiation, compressing and inflating.

Two modes, chosen by the operator:

* shared (default): no context takeover in either direction. One compressor per worker serves every connection; each
  message ends with a full flush, so it inflates alone and can be sent to many connections. An idle connection has
  no compression state.
* dedicated: context takeover, a better ratio for similar small messages, at the cost of a compressor and an inflater
  per connection (made at their first message).

Inflating is bounded: at most what the message limit leaves is produced, in slices. Which library does the work is
chosen in `asgiws.protocol.websocket.deflate_engines`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket import deflate_engines
from asgiws.protocol.websocket.deflate_engines import LONG_FROM_BYTES
from asgiws.protocol.websocket.handshake import ExtensionOffer

__all__ = [
    "DEDICATED",
    "OFF",
    "SHARED",
    "Agreement",
    "DeflateSettings",
    "Deflater",
    "Inflater",
    "inflate_message",
    "negotiate",
]

OFF: Final = "off"
SHARED: Final = "shared"
DEDICATED: Final = "dedicated"

_TAIL: Final = b"\x00\x00\xff\xff"
_SLICE_BYTES: Final = 256 * 1024
# Below this much output, a high ratio is harmless and common.
_RATIO_FREE_BYTES: Final = 1024 * 1024
_FINAL_BLOCKS: Final = 8
_BAD_DATA: Final = "compressed data that is not DEFLATE, allowed: DEFLATE"


@dataclass(frozen=True, slots=True)
class DeflateSettings:
    """The operator's settings; see the options of the same names."""

    mode: str = SHARED
    level: int = 1
    min_size_bytes: int = 64
    window_bits: int = 15
    memory_level: int = 8


class Agreement(NamedTuple):
    """What was negotiated, and the value of Sec-WebSocket-Extensions that announces it."""

    response: bytes
    server_window_bits: int
    server_takeover: bool
    client_takeover: bool


def negotiate(offers: Iterable[ExtensionOffer], settings: DeflateSettings) -> Agreement | None:
    """Accept the first acceptable offer of permessage-deflate (RFC 7692 §5.1); None: no compression."""
    if settings.mode != OFF:
        for offer in offers:
            if offer.name == "permessage-deflate":
                agreement = _consider(offer, settings)
                if agreement is not None:
                    return agreement
    return None


def _consider(offer: ExtensionOffer, settings: DeflateSettings) -> Agreement | None:
    """§7: decline an offer with an unknown, repeated or malformed parameter."""
    asked = dict(offer.parameters)
    if len(asked) != len(offer.parameters):
        return None
    server_bits = 15
    client_bits: int | None = None
    for name, value in offer.parameters:
        if name in ("server_no_context_takeover", "client_no_context_takeover"):
            if value is not None:
                return None
        elif name == "server_max_window_bits":
            if value is None or not _is_window(value):
                return None
            server_bits = int(value)
        elif name == "client_max_window_bits":
            if value is not None and not _is_window(value):
                return None
            client_bits = 15 if value is None else int(value)
        else:
            return None
    # zlib cannot compress with a window of 256 bytes
    if server_bits < 9:
        return None
    shared = settings.mode == SHARED
    server_takeover = not shared and "server_no_context_takeover" not in asked
    client_takeover = not shared and "client_no_context_takeover" not in asked
    server_bits = min(server_bits, settings.window_bits)
    parts = ["permessage-deflate"]
    if not server_takeover:
        parts.append("server_no_context_takeover")
    if not client_takeover:
        parts.append("client_no_context_takeover")
    if "server_max_window_bits" in asked or server_bits < 15:
        parts.append(f"server_max_window_bits={server_bits}")
    # §7.1.2.2: only in answer to an offer of it, and never larger than offered
    if client_bits is not None and min(client_bits, settings.window_bits) < 15:
        parts.append(f"client_max_window_bits={min(client_bits, settings.window_bits)}")
    return Agreement("; ".join(parts).encode("ascii"), server_bits, server_takeover, client_takeover)


def _is_window(value: str) -> bool:
    # §7.1.2: a decimal integer without leading zeros from 8 to 15
    return value in ("8", "9", "10", "11", "12", "13", "14", "15")


class Deflater:
    """Compresses messages one after another (RFC 7692 §7.2.1).

    Without takeover each message ends with a full flush, which empties the window: it can be inflated alone, in any
    order, by any number of peers.
    """

    __slots__ = ("_compressors", "_flush", "_long", "_settings", "_window_bits")

    def __init__(self, settings: DeflateSettings, window_bits: int, takeover: bool) -> None:
        self._settings = settings
        self._window_bits = window_bits
        self._flush = zlib.Z_SYNC_FLUSH if takeover else zlib.Z_FULL_FLUSH
        self._long = zlib if takeover or settings.level != 1 else deflate_engines.IN_USE.long
        """The engine for messages that are not short."""
        self._compressors: dict[Any, Any] = {}
        """By engine. A window that is kept has one; without, each message may come from any."""

    def compress(self, payload: bytes) -> bytes:
        """Return the payload of a compressed message, without the four bytes that §7.2.1 removes."""
        engine = zlib if len(payload) < LONG_FROM_BYTES else self._long
        compressor = self._compressors.get(engine)
        if compressor is None:
            self._compressors[engine] = compressor = self._make(engine)
        result: bytes = (compressor.compress(payload) + compressor.flush(self._flush))[:-4]
        return result

    def compress_alone(self, payload: bytes) -> bytes:
        """Compress without the window and without changing it, so that another thread may call this.

        The sender of the result calls `forget_window`: the peer's window then holds this message and ours does not.
        """
        compressor = self._make(self._long)
        result: bytes = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        return result

    def forget_window(self) -> None:
        """Compress the next message without reference to earlier ones."""
        self._compressors.clear()

    def _make(self, engine: Any) -> Any:
        settings = self._settings
        return engine.compressobj(settings.level, zlib.DEFLATED, -self._window_bits, settings.memory_level)


class Inflater:
    """Inflates messages one after another, bounded by the limits (RFC 7692 §7.2.2).

    With `takeover`, the window is kept between messages.
    """

    __slots__ = ("_begun", "_engine", "_final_blocks", "_limits", "_object", "_takeover")

    def __init__(self, limits: Limits, takeover: bool) -> None:
        self._limits = limits
        self._takeover = takeover
        self._engine = deflate_engines.IN_USE.inflate
        self._object = self._engine.decompressobj(-15)
        self._begun = False
        """Whether the message has bytes after its last final block."""
        self._final_blocks = 0

    def feed(self, data: bytes, out: bytearray, wire_bytes: int) -> Violation | None:
        """Inflate the next piece of a message and append it to `out`, which holds the message so far.

        `wire_bytes` is the size of the message's frames so far, by their headers and not by what has arrived, so that
        the result does not depend on where packets are cut. Over a limit, `out` ends one byte after it.
        """
        limits = self._limits
        most = limits.message_bytes
        ratio = limits.inflate_ratio
        if ratio:
            most = min(most, max(_RATIO_FREE_BYTES, ratio * wire_bytes))
        self._begun = self._begun or bool(data)
        while True:
            before = len(out)
            try:
                out += self._object.decompress(data, min(_SLICE_BYTES, most - before + 1))
            except self._engine.error:
                return Violation(errors.BAD_DEFLATE, _BAD_DATA)
            size = len(out)
            if size > most:
                if most == limits.message_bytes:
                    return Violation(errors.MESSAGE_TOO_BIG, f"message inflates to over {most} bytes, the limit")
                return Violation(
                    errors.INFLATE_RATIO, f"{wire_bytes} bytes inflate to over {most}, limit {ratio} to 1 above 1 MiB"
                )
            data = self._object.unconsumed_tail
            if self._object.eof:
                # §7.2.3.4: a block with BFINAL may end a message or be inside it; DEFLATE restarts after it
                self._final_blocks += 1
                if self._final_blocks > _FINAL_BLOCKS:
                    return Violation(
                        errors.BAD_DEFLATE, f"{self._final_blocks} final blocks in a message, limit {_FINAL_BLOCKS}"
                    )
                data = self._object.unused_data
                self._begun = bool(data)
                self._object = self._engine.decompressobj(-15, zdict=bytes(out[-32768:]))
            if not data and size - before < _SLICE_BYTES:
                return None

    def finish(self, out: bytearray, wire_bytes: int, last: bytes = b"") -> Violation | None:
        """End the message: feed its last piece and the bytes that §7.2.2 appends.

        §7.2.3.4 and §7.2.3.6: a zero byte follows a final block, and is the whole of an empty message. Without it, the
        four bytes would be taken for the start of a block, and the next message for the rest of it.
        """
        fault = self.feed(last, out, wire_bytes) if last else None
        if fault is None and self._begun:
            fault = self.feed(_TAIL, out, wire_bytes)
        self._begun = False
        self._final_blocks = 0
        if not self._takeover:
            self._object = self._engine.decompressobj(-15)
        return fault


def inflate_message(data: bytes, limits: Limits) -> bytes | None:
    """Inflate a whole message with a fresh window; None when it is large, unusual or invalid: `Inflater` finds out."""
    engine = deflate_engines.IN_USE.inflate
    inflater = engine.decompressobj(-15)
    most = min(_SLICE_BYTES, limits.message_bytes)
    try:
        out: bytes = inflater.decompress(data + _TAIL, most + 1)
    except engine.error:
        return None
    return None if len(out) > most or inflater.eof else out
