"""The receiving half of RFC 6455 §5 to §8: bytes in, messages out.

`Receiver.feed` takes bytes from the transport and appends messages to `inbox`, in order: a text message as `str`, a
binary one as `bytes`, and last a `Close` or a `Violation`, after which nothing is read. Pings are collected in `pings`,
the last pong in `pong`; they are not part of the order.

Bounded: parsing stops (`blocked`) while `inbox` holds as much as the limits allow; the rest stays here, unparsed, until
`resume`. Text is checked as it arrives, so an invalid byte is found at once and not at the end of its message.

Two paths. A whole, unfragmented, masked data frame at a frame boundary takes the fast one, a single chain of
comparisons at the head of the loop, unless it is compressed and of 64 KiB or more. Everything else takes the general
one:

    HEADER   between frames; bytes of an incomplete header, or of an incomplete control frame, wait in `_buffer`
    PAYLOAD  inside a data frame; its bytes are unmasked, inflated and checked as they arrive
    ENDED    a Close or a Violation was delivered; everything later is ignored (§5.5.1, §7.1.7)

Both paths agree on every input and every split of it, which a property test checks. (But when a compressed message
breaks a rule and is not DEFLATE after that, either fault may be reported: zlib drops what it inflated.)
"""

from __future__ import annotations

import sys
from typing import Final

from asgiws.protocol import errors
from asgiws.protocol.errors import Rule, Violation
from asgiws.protocol.limits import Limits
from asgiws.protocol.websocket.closing import Close, Drain, parse_close
from asgiws.protocol.websocket.deflate import Inflater, inflate_message
from asgiws.protocol.websocket.frames import BINARY, CLOSE, CONTINUATION, FIN, OPCODE_NAMES, PING, RSV1, TEXT
from asgiws.protocol.websocket.incoming_message import BAD_TEXT, IncomingMessage, check_text
from asgiws.protocol.websocket.masking import UNMASK_IN_C, unmask
from asgiws.protocol.websocket.utf8 import TextReader

__all__ = ["ENDED", "HEADER", "PAYLOAD", "Item", "Receiver"]

Item = str | bytes | Close | Violation | Drain

HEADER, PAYLOAD, ENDED = range(3)

NO_COMPRESSION: Final = 0
FRESH_WINDOW: Final = 1
KEPT_WINDOW: Final = 2

# First bytes on the fast path: FIN, no RSV bits or RSV1, text or binary
_PLAIN_FIRSTS: Final[tuple[int, ...]] = (0x81, 0x82)
_COMPRESSED_FIRSTS: Final[tuple[int, ...]] = (0x81, 0x82, 0xC1, 0xC2)


class Receiver:
    """Parses the frames of one client. Not reentrant, and never waits."""

    __slots__ = (
        "_buffer", "_byte_ceiling", "_compression", "_fast_bytes", "_fast_firsts", "_inbox_bytes", "_inbox_messages",
        "_inflater", "_limits", "_message", "_message_ceiling", "_position", "blocked", "bytes_in", "controls_in",
        "inbox", "messages_in", "pings", "pong", "queued", "state",
    )  # fmt: skip

    def __init__(self, limits: Limits, inbox: list[Item], compression: int = NO_COMPRESSION) -> None:
        self._limits = limits
        self._inbox_messages = limits.inbox_messages
        self._inbox_bytes = limits.inbox_bytes
        self._fast_bytes = min(limits.message_bytes, limits.frame_bytes or limits.message_bytes)
        self._compression = compression
        self._fast_firsts = _COMPRESSED_FIRSTS if compression else _PLAIN_FIRSTS
        self.inbox = inbox
        self.queued = 0
        """Characters and bytes of the messages in `inbox`; the reader subtracts the length of each message it takes."""
        self.blocked = False
        """Whether unparsed bytes wait here because `inbox` is full."""
        self.pings: list[bytes] | None = None
        """Payloads of pings that were not answered yet; the connection sets None."""
        self.pong: bytes | None = None
        """Payload of the last pong; the connection sets None."""
        self.bytes_in = 0
        self.messages_in = 0
        self.controls_in = 0
        """Control frames of this second."""
        self.state = HEADER
        self._buffer = b""
        self._position = 0
        self._message: IncomingMessage | None = None
        """The message in progress; None between messages."""
        self._inflater: Inflater | None = None
        """The window that is kept between messages."""
        self._message_ceiling = limits.message_rate or sys.maxsize
        self._byte_ceiling = limits.byte_rate or sys.maxsize

    @property
    def held_bytes(self) -> int:
        """Bytes kept here, unparsed, and bytes and characters of the message in progress."""
        kept = 0 if self._message is None else self._message.held_bytes
        return len(self._buffer) - self._position + kept

    def begin(self, compression: int) -> None:
        """Set what was negotiated, before the first byte is parsed."""
        self._compression = compression
        self._fast_firsts = _COMPRESSED_FIRSTS if compression else _PLAIN_FIRSTS

    def allow_another_second(self) -> None:
        """Start the next second of the rate limits; called once a second, so that no frame reads a clock."""
        limits = self._limits
        self._message_ceiling = self.messages_in + limits.message_rate if limits.message_rate else sys.maxsize
        self._byte_ceiling = self.bytes_in + limits.byte_rate if limits.byte_rate else sys.maxsize
        self.controls_in = 0

    def resume(self) -> None:
        """Continue to parse after messages were taken out of a full inbox."""
        if self.blocked:
            self.blocked = False
            self.feed(b"")

    def hold(self, data: bytes) -> None:
        """Keep bytes unparsed: those that arrive while `blocked`, or before the application has accepted."""
        self.bytes_in += len(data)
        if self.state == ENDED:
            return
        self._buffer = self._buffer[self._position :] + data if self._buffer else data
        self._position = 0
        self.blocked = True

    def feed(self, data: bytes) -> None:
        """Parse `data`, which follows everything fed before. Linear in its length, however it is cut."""
        self.bytes_in += len(data)
        if self.bytes_in > self._byte_ceiling:
            self._flood(data)
            return
        position = self._position
        if self._buffer:
            data = self._buffer + data if data else self._buffer
            self._buffer = b""
            self._position = 0
        end = len(data)
        inbox = self.inbox
        while position < end:
            if len(inbox) >= self._inbox_messages or self.queued >= self._inbox_bytes:
                if self.state != ENDED:
                    self.blocked = True
                    self._buffer = data
                    self._position = position
                return
            # ---- the fast path
            if self.state == HEADER and self._message is None and end - position >= 6:
                first = data[position]
                size = data[position + 1] - 0x80  # negative: not masked
                start = position + 6
                if size == 126 and end - position >= 8:
                    size = data[position + 2] << 8 | data[position + 3]
                    start = position + 8
                    if size < 126:  # not the fewest bytes; the general path reports it
                        size = -1
                elif size > 125:
                    size = _large_size(data, position)
                    start = position + 14
                if 0 <= size <= self._fast_bytes and start + size <= end and first in self._fast_firsts:
                    position = start + size
                    key = data[start - 4 : start]
                    if size < 126 and not UNMASK_IN_C:
                        # `unmask_python`, inlined: a call less for each short frame
                        mask = int.from_bytes((key * 32)[:size], "little")
                        payload = (int.from_bytes(data[start:position], "little") ^ mask).to_bytes(size, "little")
                    else:
                        payload = unmask(data, start, position, key)
                    if first > 0x82:
                        inflated = self._inflate_whole(first & 0x0F, payload)
                        if inflated is None:
                            return
                        payload = inflated
                    item: str | bytes = payload
                    if first & 0x0F == TEXT:
                        try:
                            item = payload.decode()
                        except UnicodeDecodeError:
                            self._fail(*BAD_TEXT)
                            return
                    # `_deliver`, inlined: a call less for each frame
                    self.messages_in += 1
                    if self.messages_in > self._message_ceiling:
                        self._fail_rate()
                        return
                    inbox.append(item)
                    self.queued += len(item)
                    continue
            # ---- the general path
            if self.state == HEADER:
                after = self._read_header(data, position)
                if after < 0:
                    self._buffer = data[position:]
                    return
                position = after
            elif self.state == PAYLOAD:
                position = self._read_payload(data, position)
            else:
                return

    # ---- the general path

    def _read_header(self, data: bytes, position: int) -> int:
        """Read a frame header, or a whole control frame; return the position after it, or -1 to wait for more."""
        available = len(data) - position
        if available < 2:
            return -1
        first, second = data[position], data[position + 1]
        opcode = first & 0x0F
        fault = self._check_first_bytes(first, second, opcode)
        if fault is not None:
            self._fail(*fault)
            return len(data)
        size = second & 0x7F
        start = position + 6
        if size > 125:
            width = 2 if size == 126 else 8
            if available < 2 + width:
                return -1
            start += width
            size = int.from_bytes(data[position + 2 : position + 2 + width], "big")
            # §5.2: minimal encoding, and the most significant bit MUST be 0
            if size < 126 or (width == 8 and size < 0x10000) or size >> 63:
                self._fail(errors.BAD_LENGTH, f"length {size} in {width} bytes, allowed: the fewest bytes, below 2^63")
                return len(data)
        if opcode & 0x8:
            if available < start - position + size:
                return -1
            self._on_control(opcode, unmask(data, start, start + size, data[start - 4 : start]))
            return start + size
        fault = self._check_size(first, size)
        if fault is not None:
            self._fail(*fault)
            return len(data)
        if available < start - position:
            return -1
        self._begin_frame(first, opcode, size, data[start - 4 : start])
        if size == 0:
            assert self._message is not None
            self._end_frame(self._message)
        return start

    def _check_first_bytes(self, first: int, second: int, opcode: int) -> tuple[Rule, str] | None:
        """Check the first two bytes of a frame (§5.2, §5.4, §5.5)."""
        reserved = first & 0x70
        if reserved and not (reserved == RSV1 and self._compression and opcode in (TEXT, BINARY)):
            # RFC 7692 §6: RSV1 is set on the first frame of a compressed message, on no other
            return errors.RESERVED_BITS, f"RSV bits {reserved >> 4:03b} in a frame of opcode {opcode}, allowed: " + (
                "100 in the first frame of a message" if self._compression else "000"
            )
        if opcode not in OPCODE_NAMES:
            return errors.RESERVED_OPCODE, f"opcode {opcode}, allowed: 0, 1, 2, 8, 9, 10"
        if not second & 0x80:
            return errors.UNMASKED_FRAME, f"unmasked {OPCODE_NAMES[opcode]} frame, allowed: masked frames"
        if opcode & 0x8:
            if not first & FIN:
                return errors.FRAGMENTED_CONTROL, f"fragmented {OPCODE_NAMES[opcode]} frame, allowed: whole ones"
            if second & 0x7F > 125:
                return errors.CONTROL_TOO_LONG, f"{OPCODE_NAMES[opcode]} frame of over 125 bytes, limit 125"
        elif opcode == CONTINUATION:
            if self._message is None:
                return errors.UNEXPECTED_CONTINUATION, "continuation with no message begun, allowed: text, binary"
        elif self._message is not None:
            return (
                errors.EXPECTED_CONTINUATION,
                f"{OPCODE_NAMES[opcode]} frame inside a fragmented message, allowed: continuation",
            )
        return None

    def _check_size(self, first: int, size: int) -> tuple[Rule, str] | None:
        """Check a data frame against the limits before a byte of it is kept."""
        limits = self._limits
        if limits.frame_bytes and size > limits.frame_bytes:
            return errors.FRAME_TOO_BIG, f"frame of {size} bytes, limit {limits.frame_bytes}"
        # Compressed data may be larger than its content, by 5 bytes for every 16 KiB and a few more.
        message = self._message
        compressed = first & RSV1 if message is None else message.compressed
        allowance = (limits.message_bytes >> 8) + 1024 if compressed else 0
        total = (0 if message is None else message.wire_bytes) + size
        if total > limits.message_bytes + allowance:
            return errors.MESSAGE_TOO_BIG, f"message of {total} bytes or more, limit {limits.message_bytes}"
        if message is not None:
            if message.fragments >= limits.fragment_count:
                return errors.TOO_MANY_FRAGMENTS, f"{message.fragments + 1} fragments, limit {limits.fragment_count}"
            if size == 0 and message.empty_fragments >= limits.empty_fragment_count:
                return (
                    errors.TOO_MANY_EMPTY_FRAGMENTS,
                    f"{message.empty_fragments + 1} empty fragments, limit {limits.empty_fragment_count}",
                )
        return None

    def _begin_frame(self, first: int, opcode: int, size: int, key: bytes) -> None:
        message = self._message
        if message is None:
            inflater = self._message_inflater() if first & RSV1 else None
            self._message = message = IncomingMessage(opcode, inflater, size if first & FIN else None)
        message.fragments += 1
        message.empty_fragments += size == 0
        message.wire_bytes += size
        message.final = bool(first & FIN)
        message.key = key
        message.remaining = size
        self.state = PAYLOAD

    def _message_inflater(self) -> Inflater:
        """Return what inflates the next message: a window of its own, or the one that is kept."""
        if self._compression == FRESH_WINDOW:
            return Inflater(self._limits, takeover=False)
        if self._inflater is None:
            self._inflater = Inflater(self._limits, takeover=True)
        return self._inflater

    def _read_payload(self, data: bytes, position: int) -> int:
        message = self._message
        assert message is not None
        taken = min(message.remaining, len(data) - position)
        key = message.key
        chunk = unmask(data, position, position + taken, key)
        message.remaining -= taken
        turn = taken & 3
        if turn:
            message.key = key[turn:] + key[:turn]
        fault = message.feed(chunk)
        if fault is not None:
            self._fail(*fault)
        elif not message.remaining:
            self._end_frame(message)
        return position + taken

    def _end_frame(self, message: IncomingMessage) -> None:
        self.state = HEADER
        if not message.final:
            return
        item = message.finish()
        if isinstance(item, Violation):
            self._fail(*item)
            return
        self.messages_in += 1
        if self.messages_in > self._message_ceiling:
            self._fail_rate()
            return
        self._message = None
        self.inbox.append(item)
        self.queued += len(item)

    def _inflate_whole(self, opcode: int, payload: bytes) -> bytes | None:
        """Inflate a message of one frame; return None for a violation."""
        if self._compression == FRESH_WINDOW:
            inflated = inflate_message(payload, self._limits)
            if inflated is not None:
                return inflated
        out = bytearray()
        fault = self._message_inflater().finish(out, len(payload), payload)
        if fault is None:
            return bytes(out)
        self._fail(*(check_text(TextReader(keep=False) if opcode == TEXT else None, out, 0) or fault))
        return None

    def _flood(self, data: bytes) -> None:
        """Parse the bytes up to the limit on bytes, and fail after them: a violation keeps its place in line."""
        ceiling = self._byte_ceiling
        over = self.bytes_in - ceiling
        data = self._buffer[self._position :] + data
        self._buffer = data[:-over]
        self._position = 0
        self._byte_ceiling = sys.maxsize
        self.feed(b"")
        self._byte_ceiling = ceiling
        if self.blocked:
            self._buffer += data[-over:]
        else:
            self._fail(errors.BYTE_FLOOD, f"over {self._limits.byte_rate} bytes in a second, the limit")

    def _fail_rate(self) -> None:
        self._fail(errors.MESSAGE_FLOOD, f"over {self._limits.message_rate} messages in a second, the limit")

    def _on_control(self, opcode: int, payload: bytes) -> None:
        self.controls_in += 1
        rate = self._limits.control_rate
        if rate and self.controls_in > rate:
            self._fail(errors.CONTROL_FLOOD, f"over {rate} control frames in a second, the limit")
        elif opcode == PING:
            if self.pings is None:
                self.pings = []
            self.pings.append(payload)
        elif opcode == CLOSE:
            self._end(parse_close(payload))
        else:
            self.pong = payload

    def _fail(self, rule: Rule, reason: str) -> None:
        if self.state != ENDED:
            self._end(Violation(rule, reason))

    def _end(self, item: Close | Violation) -> None:
        self.inbox.append(item)
        self.state = ENDED
        self._buffer = b""
        self._position = 0
        self._message = self._inflater = None
        self.blocked = False


def _large_size(data: bytes, position: int) -> int:
    """Return the size of a frame with a length of 8 bytes; -1 for what the general path has to read or report.

    That includes a compressed frame, which is inflated in pieces.
    """
    if data[position + 1] != 0xFF or len(data) - position < 14 or data[position] & RSV1:
        return -1
    size = int.from_bytes(data[position + 2 : position + 10], "big")
    return size if size > 0xFFFF else -1
