"""A connection before its first request, where there is more to it than HTTP: PROXY header, TLS handshake.

Without these options nothing of this file is used: a connection is an `HTTPConnection` from its first byte on.

    transport -> Preamble                    the PROXY header, then the first byte
    transport -> TLSTransport -> Preamble    the handshake
    transport [-> TLSTransport] -> HTTPConnection

States:

    PROXY       a PROXY header is awaited
    FIRST_BYTE  a TLS client's first byte is awaited
    SHAKING     the TLS handshake goes on
    LINGERING   refused; what still comes is discarded until the client closes or time is up
    OVER        HTTP has taken over, or the connection is gone

A connection counts towards the limits from here on. Its client's address does so too, but behind a proxy only once the
header has told it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Final, cast

from asgiws.protocol import errors
from asgiws.protocol.errors import Rule, Violation
from asgiws.protocol.http.response import encode_rejection
from asgiws.protocol.proxy_protocol import parse_proxy_header
from asgiws.protocol.trusted_networks import TrustedNetworks
from asgiws.server.connection.http import HTTPConnection
from asgiws.server.scope import GONE, Peer, peer_of
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.tls.certificates import Certificates
from asgiws.server.tls.transport import TLSTransport
from asgiws.telemetry.access_log import ClientAddress

__all__ = ["protocol_factory"]

PROXY, FIRST_BYTE, SHAKING, LINGERING, OVER = range(5)

# RFC 8446 §5.1: the type of a record that belongs to a handshake, which every TLS client sends first
_HANDSHAKE_RECORD: Final = 0x16


def protocol_factory(worker: WorkerState, certificates: Certificates | None) -> Callable[[], asyncio.Protocol]:
    """Give what makes the protocol of a connection that was accepted."""
    config = worker.config
    if certificates is None and not config.proxy_protocol:
        return lambda: HTTPConnection(worker)
    proxies = TrustedNetworks(config.proxy_protocol_allow_ips) if config.proxy_protocol else None
    return lambda: Preamble(worker, certificates, proxies)


class Preamble(asyncio.Protocol):
    """A TCP connection until HTTP begins."""

    __slots__ = (
        "_admitted", "_buffer", "_certificates", "_worker", "_counted", "_peer", "_proxies", "_state", "_ticks",
        "_transport",
    )  # fmt: skip

    def __init__(self, worker: WorkerState, certificates: Certificates | None, proxies: TrustedNetworks | None) -> None:
        self._worker = worker
        self._certificates = certificates
        self._proxies = proxies
        self._state = FIRST_BYTE if proxies is None else PROXY
        self._ticks = 0
        self._buffer = bytearray()
        self._admitted = False
        self._counted: ClientAddress = None
        """The address that counts towards the limits."""
        self._peer: Peer
        self._transport: asyncio.Transport

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many connections, or it comes from somebody else than a proxy."""
        # uvloop's transports are not subclasses of asyncio.Transport, only the same in every method.
        self._transport = cast("asyncio.Transport", transport)
        worker = self._worker
        self._peer = peer = peer_of(transport)
        if peer.client == GONE:
            self.abort()  # a health check that is content with the accept
            return
        if self._proxies is None:
            self._counted = peer.client
        elif (peer.client[0] if peer.client is not None else None) not in self._proxies:
            allowed = ", ".join(worker.config.proxy_protocol_allow_ips) or "nobody"
            self._cut(errors.PROXY_NOT_ALLOWED, f"not one of the proxies, allowed: {allowed}")
            return
        violation = worker.admission.admit(self._counted)
        if violation is not None:
            # An answer would need the handshake first, which is what costs most.
            self._cut(*violation)
            return
        self._admitted = True
        worker.registry.connections.add(self)
        if worker.registry.stopping and not worker.registry.replaced:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a PROXY header, or the first ones of TLS."""
        if self._state == PROXY:
            self._buffer += data
            self._read_proxy_header()
        elif self._state == FIRST_BYTE:
            self._begin_tls(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; a client that left before it said anything is a health check, and no news."""
        if self._state == SHAKING:
            self._reject(errors.TLS_HANDSHAKE, "client left during the TLS handshake")
        elif self._state == PROXY and self._buffer:
            self._reject(errors.BAD_PROXY_HEADER, f"client left after {len(self._buffer)} bytes of a PROXY header")
        self._state = OVER
        self._worker.registry.remove(self)
        if self._admitted:
            self._worker.admission.release(self._counted)

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards the deadline of the present state."""
        self._ticks += 1
        worker, state = self._worker, self._state
        deadlines, config = worker.deadlines, worker.config
        if worker.registry.stopping and state < SHAKING and self._ticks >= deadlines.last:
            self.abort()
        elif state == PROXY:
            if deadlines.head and self._ticks >= deadlines.head:
                self._cut(errors.PROXY_TIMEOUT, f"no whole PROXY header in {config.head_timeout:g} s")
        elif state == SHAKING:
            if deadlines.head and self._ticks >= deadlines.head:
                self._cut(errors.TLS_TIMEOUT, f"no TLS handshake in {config.head_timeout:g} s")
        elif state == FIRST_BYTE:
            if deadlines.head and self._ticks >= deadlines.head:
                self.abort()
        elif self._ticks >= deadlines.close:
            # A browser opens connections in advance: one that says nothing is no fault.
            self.abort()

    def begin_shutdown(self) -> None:
        """End; but where another process goes on in this one's place, be served first, if that begins at once."""
        if self._state < LINGERING and not self._worker.registry.replaced:
            self.abort()

    def abort(self) -> None:
        """End the TCP connection now."""
        if self._state == SHAKING:
            self._state = OVER
        self._buffer.clear()
        self._transport.abort()

    # ---- called by the TLS transport

    def on_encrypted(self, transport: TLSTransport, tls: ssl.SSLObject) -> None:
        """Begin HTTP: the handshake is done."""
        assert self._certificates is not None
        self._peer.secure = True
        self._peer.tls = self._certificates.extension(tls)
        self._begin_http(transport)

    def on_handshake_failed(self, reason: str) -> None:
        """End, but let the alert reach the client, which may be sending its first request already."""
        self._reject(errors.TLS_HANDSHAKE, reason)
        self._linger()

    def on_bad_record(self, reason: str) -> None:
        """Count a record that cannot be decrypted."""
        self._reject(errors.BAD_TLS_RECORD, reason)

    # ---- the stages

    def _read_proxy_header(self) -> None:
        header = parse_proxy_header(bytes(self._buffer))
        if header is None:
            return
        if isinstance(header, Violation):
            self._cut(*header)
            return
        if header.known:
            self._peer = Peer(client=header.client, server=header.server, secure=header.secure)
        rest = bytes(self._buffer[header.size :])
        self._buffer.clear()
        self._state, self._ticks = FIRST_BYTE, 0
        if self._certificates is None:
            connection = self._begin_http(self._transport)
            if rest:
                connection.data_received(rest)
        elif rest:
            self._begin_tls(rest)

    def _begin_tls(self, data: bytes) -> None:
        assert self._certificates is not None
        if data[0] == _HANDSHAKE_RECORD:
            self._state = SHAKING
            tls = TLSTransport(self._transport, self._certificates.context, self)
            self._transport.set_protocol(tls)
            tls.data_received(data)
        elif data[:1].isalpha():
            violation = Violation(errors.PLAIN_HTTP, "plain HTTP on a port that speaks TLS; use https:// or wss://")
            self._transport.write(encode_rejection(violation))
            self._reject(*violation)
            self._linger()
        else:
            self._cut(errors.NOT_TLS, f"first byte {data[0]:#04x}, allowed: a TLS handshake")

    def _begin_http(self, transport: asyncio.Transport) -> HTTPConnection:
        """Hand over to HTTP, which counts the connection again, by its client's own address."""
        self._state = OVER
        self._worker.admission.release(self._counted)
        self._admitted = False
        connection = HTTPConnection(self._worker)
        transport.set_protocol(connection)
        connection.begin(transport, self._peer)
        # Only now: a server that stops waits for the last connection to leave the registry.
        self._worker.registry.remove(self)
        return connection

    # ---- ends

    def _reject(self, rule: Rule, reason: str) -> None:
        self._worker.incidents.reject(Violation(rule, reason), self._peer.client)

    def _cut(self, rule: Rule, reason: str) -> None:
        """Count and log the client's fault, and end."""
        self._reject(rule, reason)
        self.abort()

    def _linger(self) -> None:
        """Close our side, and discard what comes, so that no reset destroys what was written (RFC 9112 §9.6)."""
        self._state, self._ticks = LINGERING, 0
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
