"""TLS on a transport: the transport of a connection, and the protocol of the loop's transport.

    loop's transport  <->  TLSTransport (ssl.SSLObject and two memory BIOs)  <->  HTTPConnection, WebSocketConnection

The loops' own TLS has three faults that matter here, on asyncio and uvloop alike. One deadline for closing covers all
that is unsent, so a slow client loses the end of a large response. The size of the write buffer leaves out what waits
below the encryption, so a slow client looks like one that does not read. And our side cannot be closed alone, so a
reset destroys the response to a client that is still sending (RFC 9112 §9.6). Beyond that, each connection keeps a
buffer of 256 KiB. Here all of this is as it is without TLS, because everything but the bytes is left to the transport
below.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, Final, Protocol, cast

from asgiws.server.tls.certificates import reason_of

__all__ = ["RECORD_BYTES", "Greeter", "TLSTransport"]

RECORD_BYTES: Final = 16 * 1024
"""The most that a record holds (RFC 8446 §5.1). Both BIOs get no more at a time: they never shrink."""
_WRITE_BYTES: Final = 16 * RECORD_BYTES


class TLSState:
    """How far a TLS connection has come.

    HANDSHAKE   bytes that arrive belong to the handshake
    OPEN        both directions are open
    PEER_DONE   the client sends no more (close_notify), and may still read (RFC 8446 §6.1)
    DONE        our close_notify is out, or the handshake has failed: bytes that arrive are dropped, nothing can be sent
    """

    HANDSHAKE, OPEN, PEER_DONE, DONE = range(4)


class Greeter(Protocol):
    """The protocol that waits for the handshake."""

    def on_encrypted(self, transport: TLSTransport, tls: ssl.SSLObject) -> None:
        """Replace itself by another protocol: the handshake is done."""

    def on_handshake_failed(self, reason: str) -> None:
        """End the connection below, on which the alert is written."""

    def on_bad_record(self, reason: str) -> None:
        """Count a record that could not be decrypted; the connection ends."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle a connection that ends before the handshake is done."""


class TLSTransport(asyncio.Transport, asyncio.Protocol):
    """One encrypted connection, on the server's side."""

    __slots__ = ("_below", "_greeter", "_incoming", "_outgoing", "_protocol", "_ssl_context", "_state", "_tls")

    def __init__(self, below: asyncio.Transport, ssl_context: ssl.SSLContext, greeter: Greeter) -> None:
        self._below = below
        self._greeter = greeter
        self._ssl_context = ssl_context
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = ssl_context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._protocol: asyncio.Protocol | None = None
        self._state = TLSState.HANDSHAKE

    # ---- called by the transport below

    def data_received(self, data: bytes) -> None:
        """Handle bytes of records."""
        begin = 0
        while self._state == TLSState.HANDSHAKE and begin < len(data):
            self._incoming.write(data[begin : begin + RECORD_BYTES])
            begin += RECORD_BYTES
            self._shake()
        if self._state == TLSState.OPEN:
            self._decrypt(data[begin:] if begin else data)

    def eof_received(self) -> bool:
        """Handle the end of the client's stream; return whether the transport stays open.

        Without a close_notify before it, the stream may have been truncated: the connection is over.
        """
        return self._state == TLSState.PEER_DONE

    def pause_writing(self) -> None:
        """Pass it on."""
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        if self._protocol is not None:
            self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._state = TLSState.DONE
        (self._protocol or self._greeter).connection_lost(exc)

    # ---- called by the connection

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass the bytes that arrive to another protocol."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol that takes the bytes that arrive."""
        assert self._protocol is not None
        return self._protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send."""
        if self._state not in (TLSState.OPEN, TLSState.PEER_DONE) or not data:
            return
        tls, outgoing, below = self._tls, self._outgoing, self._below
        try:
            if len(data) <= RECORD_BYTES:
                tls.write(data)
                below.write(outgoing.read())
                return
            view = memoryview(data)
            for begin in range(0, len(data), _WRITE_BYTES):
                piece, records = view[begin : begin + _WRITE_BYTES], []
                for start in range(0, len(piece), RECORD_BYTES):
                    tls.write(piece[start : start + RECORD_BYTES])
                    records.append(outgoing.read())
                below.write(b"".join(records))
        except ssl.SSLError as error:
            self._fail(error)

    def write_eof(self) -> None:
        """Close our side: close_notify, and then the TCP stream."""
        self._close_notify()
        self._below.write_eof()

    def can_write_eof(self) -> bool:
        """Return whether our side can be closed alone."""
        return self._state in (TLSState.OPEN, TLSState.PEER_DONE) and self._below.can_write_eof()

    def close(self) -> None:
        """Close once everything written has left. The client's close_notify is not awaited (RFC 8446 §6.1)."""
        self._close_notify()
        self._below.close()

    def abort(self) -> None:
        """Close now."""
        self._state = TLSState.DONE
        self._below.abort()

    def is_closing(self) -> bool:
        """Return whether the connection is closed or closing."""
        return self._below.is_closing()

    def pause_reading(self) -> None:
        """Stop reading."""
        self._below.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._below.resume_reading()

    def is_reading(self) -> bool:
        """Return whether the transport reads."""
        return self._below.is_reading()

    def get_write_buffer_size(self) -> int:
        """Return the number of encrypted bytes that wait."""
        return self._below.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the water marks in bytes."""
        return self._below.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the water marks in bytes."""
        self._below.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return `sslcontext` and `ssl_object`, and everything else from the transport below."""
        if name == "sslcontext":
            return self._ssl_context
        if name == "ssl_object":
            return self._tls
        return self._below.get_extra_info(name, default)

    # ---- in

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._flush()  # the alert
            self._state = TLSState.DONE
            self._greeter.on_handshake_failed(reason_of(error))
        else:
            self._flush()
            self._state = TLSState.OPEN
            self._greeter.on_encrypted(self, self._tls)

    def _decrypt(self, data: bytes) -> None:
        """Pass on the data of complete records. The incoming BIO is empty then: OpenSSL keeps an incomplete record."""
        pieces: list[bytes] = []
        ended, fault = False, None
        try:
            if len(data) <= RECORD_BYTES:
                ended = self._decrypt_into(pieces, data)
            else:
                view = memoryview(data)
                for begin in range(0, len(data), RECORD_BYTES):
                    ended = ended or self._decrypt_into(pieces, view[begin : begin + RECORD_BYTES])
        except ssl.SSLError as error:
            fault = error
        if pieces:
            cast("asyncio.Protocol", self._protocol).data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._state != TLSState.OPEN:
            return
        if fault is not None:
            self._fail(fault)
        elif ended:
            self._state = TLSState.PEER_DONE
            # An upgrade may have put another one in its place meanwhile.
            if not cast("asyncio.Protocol", self._protocol).eof_received():
                self.close()

    def _decrypt_into(self, pieces: list[bytes], data: bytes | memoryview) -> bool:
        """Append the data of records; return whether the client's close_notify was among them. Raises SSLError."""
        tls, incoming = self._tls, self._incoming
        incoming.write(data)
        try:
            while incoming.pending:
                piece = tls.read(RECORD_BYTES)
                if not piece:
                    return True
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            return True
        return False

    # ---- out

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())

    def _close_notify(self) -> None:
        if self._state in (TLSState.OPEN, TLSState.PEER_DONE):
            self._state = TLSState.DONE
            # It raises because the client's close_notify has not arrived; it is not awaited.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()

    def _fail(self, error: ssl.SSLError) -> None:
        """End a connection that cannot be read or written any more, with the alert that says why."""
        self._state = TLSState.DONE
        self._flush()
        self._greeter.on_bad_record(reason_of(error))
        self._below.close()
