"""One HTTP/1.1 connection: request heads and bodies in, responses out, and the door to WebSocket.

Reads one request at a time and answers in order (RFC 9112 §9.3): while an exchange is open, what comes behind its body
stays unparsed in the buffer, and reading stops once that holds a head's worth. A request that asks for WebSocket
leaves this object for good: its head, and the bytes behind it, go to a `WebSocketConnection` on the same transport.

States:

    NEW         connected, no byte has come
    IDLE        between requests, no byte of the next has come
    HEAD        part of a request head is there
    EXCHANGE    a request is with the application
    SKIPPING    the response is done, the rest of its request's body is read and dropped
    LINGERING   the last answer is out; what still comes is discarded until the client closes or time is up
    UPGRADED    the WebSocket connection has taken over
    LOST        the TCP connection is gone
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from typing import IO, Final, cast

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.body import BodyReader, body_reader
from asgiws.protocol.http.fields import Header
from asgiws.protocol.http.head import HeadReader, RequestHead
from asgiws.protocol.http.response import HEAD as NOT_STARTED
from asgiws.protocol.http.response import encode_rejection
from asgiws.protocol.printable import escape
from asgiws.protocol.websocket.handshake import asks_for_websocket, check_handshake, origin_allowed
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.connection.forwarding import is_proxy, peer_for
from asgiws.server.connection.request import RequestCycle
from asgiws.server.connection.sendfile import send_part
from asgiws.server.connection.session import WebSocketSession
from asgiws.server.connection.websocket import WebSocketConnection
from asgiws.server.scope import Peer, http_scope, peer_of, websocket_scope
from asgiws.server.state.worker_state import WorkerState
from asgiws.telemetry.access_log import log_http

__all__ = ["HTTPConnection"]

NEW, IDLE, HEAD, EXCHANGE, SKIPPING, LINGERING, UPGRADED, LOST = range(8)

# Connections that were refused and are still being told so; beyond that, they are cut off without a word.
_REFUSED_MOST: Final = 256
# A body that the application did not read is read to its end to keep the connection, but not more than this of it.
_SKIP_MOST_BYTES: Final = 64 * 1024


class HTTPConnection(asyncio.Protocol):
    """A TCP connection that speaks HTTP/1.1."""

    __slots__ = (
        "_admitted", "_body", "_cycle", "_flow", "_half_closed", "_via", "_peer", "_proxied", "_reader",
        "_skipped_bytes", "_state", "_ticks", "_transport", "worker",
    )  # fmt: skip

    def __init__(self, worker: WorkerState) -> None:
        self.worker = worker
        self._reader = HeadReader(worker.limits, worker.known_heads)
        self._state = NEW
        self._ticks = 0
        """Ticks in the present wait: for a head, a body, a next request, or the client to take what was sent."""
        self._cycle: RequestCycle | None = None
        self._body: BodyReader | None = None
        self._skipped_bytes = 0
        self._half_closed = False
        self._admitted = True
        """Whether this connection counts towards the limits of connections; False for one that was refused."""
        self._via: Peer
        """The other end of the connection."""
        self._proxied = False
        """Whether that is a trusted proxy."""
        self._peer: Peer
        """Who the present request comes from."""
        self._flow: FlowControl
        self._transport: asyncio.Transport

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the two ends that the transport has."""
        # uvloop's transports are not subclasses of asyncio.Transport, only the same in every method.
        self.begin(cast("asyncio.Transport", transport), peer_of(transport))

    def begin(self, transport: asyncio.Transport, peer: Peer) -> None:
        """Begin, unless there are too many connections already."""
        self._transport = transport
        worker = self.worker
        self._peer = self._via = peer
        self._proxied = is_proxy(worker, peer, transport)
        config = worker.config
        self._flow = FlowControl(transport, worker.loop, config.write_high_water, config.write_high_water // 4)
        violation = worker.admission.admit(peer.client)
        if violation is not None:
            self._admitted = False
            if len(worker.registry.connections) - worker.admission.admitted >= _REFUSED_MOST:
                worker.counters.rejections[violation.rule.name] += 1
                transport.abort()
                return
        worker.registry.connections.add(self)
        if violation is not None:
            self._reject(violation)
        elif worker.registry.stopping and not worker.registry.replaced:
            transport.close()

    def data_received(self, data: bytes) -> None:
        """Take bytes of a head, of a body, or of what will come after it."""
        state = self._state
        if state <= HEAD:
            self._advance(data)
        elif state == EXCHANGE:
            self._read_body(data)
        elif state == SKIPPING:
            self._reader.buffer += data
            self._skip_body()

    def eof_received(self) -> bool:
        """Keep our side open while a response is on its way: a client may half-close (RFC 9112 §9.6).

        The application is told `http.disconnect`, because this is also how most clients leave.
        """
        self._half_closed = True
        if self._state != EXCHANGE or self._cycle is None:
            return False
        self._cycle.disconnect()
        return self._cycle.body_complete

    def pause_writing(self) -> None:
        """Make `send` wait."""
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        """Let `send` go on, and the requests behind a response that was not read."""
        self._flow.resume_writing()
        if self._state in (IDLE, HEAD):
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: tell whoever waits."""
        self._state = LOST
        self._flow.end()
        self.worker.registry.remove(self)
        if self._admitted:
            self.worker.admission.release(self._via.client)
        if self._cycle is not None:
            self._cycle.disconnect()
            self._report_response(self._cycle, complete=False)
            self._cycle = None

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards the deadline of the present state."""
        self._ticks += 1
        deadlines, state = self.worker.deadlines, self._state
        if self._flow.write_paused and state != LINGERING:
            self._ticks = 0
            if deadlines.write and self._flow.ticks_without_progress() >= deadlines.write:
                self.worker.incidents.on_slow_consumer(self._peer.client)
                self.abort()
        elif state == LINGERING:
            if self._flow.progresses():
                self._ticks = 0
            elif self._ticks >= deadlines.close:
                self.abort()
        elif state == EXCHANGE:
            exchange = self._cycle
            if exchange is None or not exchange.waits_for_body:
                self._ticks = 0
            elif deadlines.body and self._ticks >= deadlines.body:
                self._reject(Violation(errors.BODY_TIMEOUT, f"no body byte for {self.worker.config.body_timeout:g} s"))
        elif state == HEAD:
            if deadlines.head and self._ticks >= deadlines.head:
                self._reject(Violation(errors.HEAD_TIMEOUT, f"no whole head in {self.worker.config.head_timeout:g} s"))
        else:
            deadline = {NEW: deadlines.head, IDLE: deadlines.keep_alive}.get(state, deadlines.close)
            if self.worker.registry.stopping:
                deadline = min(deadline or deadlines.last, deadlines.last)
            if deadline and self._ticks >= deadline:
                self._end_after_answer(discard=False)

    def begin_drain(self) -> None:
        """Say with the open answer, unless it has begun, that the connection ends behind it."""
        if self._cycle is not None and self._cycle.response.state == NOT_STARTED:
            self._cycle.response.keep_alive = False

    def begin_shutdown(self) -> None:
        """End when the open response is done, at once when there is none.

        Where another process goes on in this one's place, nobody should notice: the next request of a client that was
        active a moment ago is probably on its way. It is awaited for a second and answered with `connection: close`.
        """
        if self._state in (NEW, IDLE, HEAD, SKIPPING) and not (
            self.worker.registry.replaced and self._ticks < self.worker.deadlines.last
        ):
            self._end_after_answer(discard=False)

    def abort(self) -> None:
        """End the TCP connection now."""
        self._transport.abort()

    @property
    def busy(self) -> bool:
        """Whether a request is with the application."""
        return self._state == EXCHANGE

    @property
    def unsent_bytes(self) -> int:
        """What waits for the client to take it."""
        return self._transport.get_write_buffer_size()

    # ---- called by the exchange

    def ended(self) -> bool:
        """Whether nothing can be sent any more: the last answer is out, or the TCP connection is gone or about to go.

        The loop tells of a loss only when the application pauses; the transport knows before.
        """
        return self._state in (LINGERING, LOST) or (self._state == EXCHANGE and self._transport.is_closing())

    async def send_part(self, file: IO[bytes], offset: int, count: int) -> None:
        """Send a part of a file as it is."""
        await send_part(self.worker, self._transport, self._flow, file, offset, count, self.ended)

    def write(self, data: bytes) -> None:
        """Write, or do nothing once the connection has ended."""
        if data and self._state == EXCHANGE and not self._transport.is_closing():
            self._transport.write(data)

    def skips_body(self) -> bool:
        """Tell whether what is left of the request body is little enough to be read and dropped."""
        return self._body is None or not self._body.is_longer_than(_SKIP_MOST_BYTES)

    def on_body_taken(self) -> None:
        """Read on: the application has taken what was held for it."""
        self._ticks = 0
        if self._flow.reading_paused:
            self._read_body()

    def on_response_done(self, exchange: RequestCycle) -> None:
        """Log the response, and go on with the next request or end."""
        if self._cycle is not exchange:
            return
        worker, response = self.worker, exchange.response
        worker.counters.http_responses[response.status] += 1
        seconds = time.monotonic() - exchange.began_s
        requests = worker.counters.requests  # what `Histogram.add` does, written out: a call less for each request
        requests.counts[bisect_left(requests.bounds, seconds)] += 1
        requests.total += seconds
        self._report_response(exchange, complete=True)
        self._cycle = None
        exchange.wake()
        if not response.keep_alive or worker.registry.stopping or self._half_closed:
            self._end_after_answer(discard=not exchange.body_complete)
        elif exchange.body_complete:
            self._next_request()
        else:
            self._state = SKIPPING
            self._skipped_bytes = self._ticks = 0
            self._flow.resume_reading()
            self._skip_body()

    def _report_response(self, exchange: RequestCycle, *, complete: bool) -> None:
        if self.worker.config.access_log:
            head = exchange.head
            log_http(
                self._peer.client, head.method, head.target, head.query, head.http_version,
                status=exchange.response.status, bytes_out=exchange.sent_bytes,
                seconds=time.monotonic() - exchange.began_s, complete=complete,
            )  # fmt: skip

    # ---- requests

    def _advance(self, data: bytes = b"") -> None:
        """Take what came; begin the next request, once its head is whole and the answers before it are on their way."""
        if self._flow.write_paused:
            # A client that sends requests and reads no answers waits here, with one head's worth of bytes.
            self._reader.buffer += data
            self._flow.pause_reading()
            return
        head = self._reader.feed(data)
        if head is None:
            if self._reader.buffer and self._state != HEAD:
                self._state, self._ticks = HEAD, 0
            self._flow.resume_reading()
            return
        if isinstance(head, Violation):
            self._reject(head)
            return
        if self._proxied:
            self._peer = peer_for(self.worker, head, self._via)
        if asks_for_websocket(head):
            self._begin_websocket(head)
        else:
            self._begin_exchange(head)

    def _begin_exchange(self, head: RequestHead) -> None:
        worker = self.worker
        worker.counters.http_requests += 1
        if head.upgrade_lost:
            worker.incidents.on_upgrade_lost(self._peer.client)
        self._body = body = (
            None if head.content_length in (None, 0) and not head.chunked else body_reader(head, worker.limits)
        )
        self._state, self._ticks = EXCHANGE, 0
        self._cycle = exchange = RequestCycle(self, self._flow, head, body is None)
        if worker.registry.draining:
            exchange.response.keep_alive = False
        if self._reader.buffer:
            self._read_body()
        elif self._flow.reading_paused:
            self._flow.resume_reading()
        if self._cycle is exchange:
            worker.registry.start(exchange.run(http_scope(worker, head, self._peer)))

    def _read_body(self, data: bytes = b"") -> None:
        """Take what came; give the application what there is of its body, and hold what comes behind."""
        exchange, body, buffer = self._cycle, self._body, self._reader.buffer
        if exchange is not None and body is not None and not body.complete:
            self._ticks = 0
            taken = body.feed(data, buffer)
            if isinstance(taken, Violation):
                self._reject(taken)
                return
            behind = exchange.feed(taken, body.complete) and not body.complete
        else:
            buffer += data
            behind = False
        if behind or len(buffer) > self.worker.limits.head_bytes:
            self._flow.pause_reading()
        else:
            self._flow.resume_reading()

    def _skip_body(self) -> None:
        """Drop the rest of a body that nobody reads, to reach the next request."""
        body = self._body
        assert body is not None
        data = body.read(self._reader.buffer)
        if isinstance(data, Violation) or self._skipped_bytes + len(data) > _SKIP_MOST_BYTES:
            self._end_after_answer(discard=True)
            return
        self._skipped_bytes += len(data)
        if body.complete:
            self._next_request()

    def _next_request(self) -> None:
        self._body = None
        self._peer = self._via
        self._state, self._ticks = IDLE, 0
        if self._reader.buffer:
            self._advance()
        elif self._flow.reading_paused:
            self._flow.resume_reading()

    def _begin_websocket(self, head: RequestHead) -> None:
        """Hand the connection over, once the handshake is known to be proper (RFC 6455 §4.2.1)."""
        worker, peer = self.worker, self._peer
        handshake = check_handshake(head)
        if isinstance(handshake, Violation):
            self._reject_handshake(handshake, head.target)
            return
        if not origin_allowed(handshake.origin, worker.config.allowed_origins):
            reason = f"origin {escape(handshake.origin or b'')[:80]}, not one of the allowed origins"
            self._reject_handshake(Violation(errors.ORIGIN_NOT_ALLOWED, reason), head.target)
            return
        violation = worker.admission.admit_handshake(peer.client)
        if violation is not None:
            self._reject_handshake(violation, head.target)
            return
        if worker.registry.stopping and not worker.registry.replaced:
            self._transport.close()
            return
        self._state = UPGRADED
        worker.registry.remove(self)
        scope = websocket_scope(worker, head, peer, handshake.subprotocols)
        websocket = WebSocketConnection(worker, self._transport, self._flow, peer, head.target, handshake)
        self._transport.set_protocol(websocket)
        self._flow.resume_reading()
        websocket.begin(bytes(self._reader.buffer))
        worker.registry.start(WebSocketSession(websocket).run(scope))

    def _reject_handshake(self, violation: Violation, target: bytes) -> None:
        self.worker.counters.websockets_rejected += 1
        self._reject(violation, target)

    # ---- ends

    def _reject(self, violation: Violation, path: bytes = b"") -> None:
        """Answer a request that broke a rule, and end the connection: what follows cannot be trusted."""
        exchange = self._cycle
        self.worker.incidents.reject(violation, self._peer.client, path if exchange is None else exchange.head.target)
        if exchange is None or exchange.response.state == NOT_STARTED:
            self._transport.write(encode_rejection(violation, _extra_fields(violation)))
        self._cycle = None
        self._end_after_answer(discard=True)
        if exchange is not None:
            exchange.disconnect()

    def _end_after_answer(self, *, discard: bool) -> None:
        """Close once everything written has left.

        With `discard`, the client may still be sending: closing now would reset the connection and destroy the answer
        on its way. So our side is closed first and what comes is thrown away (RFC 9112 §9.6).
        """
        self._state, self._ticks = LINGERING, 0
        self._reader.buffer.clear()
        self._body = None
        if discard and self._transport.can_write_eof() and not self._half_closed:
            self._transport.write_eof()
            self._flow.resume_reading()
        else:
            self._transport.close()


def _extra_fields(violation: Violation) -> list[Header]:
    """Give the fields that a status asks for."""
    if violation.rule.code == 426:
        # RFC 9110 §15.5.22 and RFC 6455 §4.4
        return [(b"upgrade", b"websocket"), (b"sec-websocket-version", b"13")]
    if violation.rule.code == 405:
        return [(b"allow", b"GET")]
    if violation.rule.code in (429, 503):
        return [(b"retry-after", b"1")]
    return []
