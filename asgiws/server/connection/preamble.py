"""A connection before its first request: a PROXY header, a TLS handshake.

Without these options nothing of this file is used: a connection is an `HTTPConnection` from its first byte on.

    transport -> Preamble                    the PROXY header, then the first byte
    transport -> TLSTransport -> Preamble    the handshake
    transport [-> TLSTransport] -> HTTPConnection

A connection counts towards the limits from here on. Its client's address does so too; behind a proxy only once the
header has named it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from typing import Final, cast

from asgiws.protocol import errors
from asgiws.protocol.errors import Rule, Violation
from asgiws.protocol.http.rejection import encode_rejection
from asgiws.protocol.proxy_protocol import parse_proxy_header
from asgiws.protocol.trusted_networks import TrustedNetworks
from asgiws.server.connection.lingering_close import LingeringClose
from asgiws.server.http.connection import HTTPConnection
from asgiws.server.scope import GONE, Peer, peer_of
from asgiws.server.state.admission import REFUSED_MOST
from asgiws.server.state.registry import HANDING_OVER, STOPPING
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.tls.certificates import Certificates
from asgiws.server.tls.transport import TLSTransport
from asgiws.telemetry.access_log import ClientAddress

__all__ = ["protocol_factory"]

# RFC 8446 §5.1: the type of a record that belongs to a handshake, which every TLS client sends first
_HANDSHAKE_RECORD: Final = 0x16


def protocol_factory(worker: WorkerState, certificates: Certificates | None) -> Callable[[], asyncio.Protocol]:
    """Return the factory of protocols for accepted connections."""
    config = worker.config
    if certificates is None and not config.proxy_protocol:
        return partial(HTTPConnection, worker)
    proxies = TrustedNetworks(config.proxy_protocol_allow_ips) if config.proxy_protocol else None
    return partial(Preamble, worker, certificates, proxies)


class Stage:
    """What a connection waits for.

    PROXY       a PROXY header
    FIRST_BYTE  the first byte of a TLS client
    HANDSHAKE   the end of the TLS handshake
    LINGERING   the end of a refused client; what still arrives is discarded
    OVER        nothing: HTTP has taken over, or the connection is gone
    """

    PROXY, FIRST_BYTE, HANDSHAKE, LINGERING, OVER = range(5)


class Preamble(asyncio.Protocol):
    """A TCP connection until HTTP begins."""

    __slots__ = (
        "_admitted", "_buffer", "_certificates", "_counted", "_lingering", "_peer", "_proxies", "_stage", "_ticks",
        "_transport", "_worker",
    )  # fmt: skip

    spreads_drain = False

    def __init__(self, worker: WorkerState, certificates: Certificates | None, proxies: TrustedNetworks | None) -> None:
        self._worker = worker
        self._certificates = certificates
        self._proxies = proxies
        self._stage = Stage.FIRST_BYTE if proxies is None else Stage.PROXY
        self._ticks = 0
        self._buffer = bytearray()
        self._admitted = False
        self._counted: ClientAddress = None
        """The address that counts towards the limits."""
        self._peer: Peer
        self._lingering: LingeringClose
        """Set in LINGERING."""
        self._transport: asyncio.Transport

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless there are too many connections or the peer is not an allowed proxy."""
        # uvloop's transports are not subclasses of asyncio.Transport, only the same in every method.
        self._transport = cast("asyncio.Transport", transport)
        worker = self._worker
        self._peer = peer = peer_of(transport)
        if peer.client == GONE:
            self.abort()  # a health check that needs only the accept
            return
        if self._proxies is None:
            self._counted = peer.client
        elif (peer.client[0] if peer.client is not None else None) not in self._proxies:
            allowed = ", ".join(worker.config.proxy_protocol_allow_ips) or "none"
            self._cut(errors.PROXY_NOT_ALLOWED, f"not one of the proxies, allowed: {allowed}")
            return
        violation = worker.admission.admit(self._counted)
        refused_count = len(worker.registry.connections) - worker.admission.admitted
        if violation is not None and (worker.config.refusal == "http" or refused_count >= REFUSED_MOST):
            # An answer would need the handshake first, which costs most; `--refusal close` asks for it.
            self._cut(*violation)
            return
        self._admitted = violation is None
        worker.registry.connections[self] = None
        if worker.registry.phase == STOPPING:
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Handle bytes of a PROXY header, or the first ones of TLS."""
        if self._stage == Stage.PROXY:
            self._buffer += data
            self._read_proxy_header()
        elif self._stage == Stage.FIRST_BYTE:
            self._begin_tls(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End; a client that left before its first byte is a health check, and not logged."""
        if self._stage == Stage.HANDSHAKE:
            self._reject(errors.TLS_HANDSHAKE, "client left during the TLS handshake")
        elif self._stage == Stage.PROXY and self._buffer:
            self._reject(errors.BAD_PROXY_HEADER, f"client left after {len(self._buffer)} bytes of a PROXY header")
        self._stage = Stage.OVER
        self._worker.registry.remove(self)
        if self._admitted:
            self._worker.admission.release(self._counted)

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards the deadline of the present state."""
        self._ticks += 1
        worker, stage = self._worker, self._stage
        deadlines, config = worker.deadlines, worker.config
        if stage == Stage.LINGERING:
            self._lingering.on_tick()
        elif worker.registry.phase >= HANDING_OVER and stage < Stage.HANDSHAKE and self._ticks >= deadlines.last:
            self.abort()
        elif deadlines.head and self._ticks >= deadlines.head:
            if stage == Stage.PROXY:
                self._cut(errors.PROXY_TIMEOUT, f"no whole PROXY header in {config.head_timeout:g} s")
            elif stage == Stage.HANDSHAKE:
                self._cut(errors.TLS_TIMEOUT, f"no TLS handshake in {config.head_timeout:g} s")
            else:
                # A browser opens connections in advance: one without a byte is no fault.
                self.abort()

    def begin_shutdown(self) -> None:
        """End; where another process takes over, a client that begins at once is still served."""
        if self._stage < Stage.LINGERING:
            if self._worker.registry.phase == HANDING_OVER:
                self._ticks = 0
            else:
                self.abort()

    def abort(self) -> None:
        """End the TCP connection now."""
        if self._stage == Stage.HANDSHAKE:
            self._stage = Stage.OVER
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
        self._stage, self._ticks = Stage.FIRST_BYTE, 0
        if self._certificates is None:
            connection = self._begin_http(self._transport)
            if rest:
                connection.data_received(rest)
        elif rest:
            self._begin_tls(rest)

    def _begin_tls(self, data: bytes) -> None:
        assert self._certificates is not None
        if data[0] == _HANDSHAKE_RECORD:
            self._stage = Stage.HANDSHAKE
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
        """Hand over to HTTP, which counts the connection again, by the address of its client."""
        self._stage = Stage.OVER
        if self._admitted:
            self._worker.admission.release(self._counted)
            self._admitted = False
        connection = HTTPConnection(self._worker)
        transport.set_protocol(connection)
        connection.begin(transport, self._peer)
        # Removed last: a server that stops waits until the registry is empty.
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
        self._stage = Stage.LINGERING
        self._lingering = LingeringClose(self._transport, self._worker.deadlines.close, discard=True)
