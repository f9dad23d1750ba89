"""One HTTP/1.1 connection: request heads and bodies in, responses out, and the upgrade to WebSocket.

Reads one request at a time and answers in order (RFC 9112 §9.3): while a request is with the application, what follows
its body stays unparsed in the buffer, and reading stops once that holds a head's worth. A request that asks for
WebSocket leaves this object for good: its head, and the bytes after it, go to a `WebSocketConnection` on the same
transport.

The states are those of `asgiws.protocol.http.connection_state`. Each transition is looked up in `NEXT`, and starts the
count of ticks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, cast

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.body import BodyReader, body_reader
from asgiws.protocol.http.connection_state import NEXT, Moved, State
from asgiws.protocol.http.head import RequestHead
from asgiws.protocol.http.head_reader import HeadReader
from asgiws.protocol.printable import escape
from asgiws.protocol.websocket.handshake import Handshake, check_handshake, origin_allowed
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.connection.lingering_close import LingeringClose
from asgiws.server.connection.slow_client import drop_slow_client, is_too_slow
from asgiws.server.http.request import RequestCycle
from asgiws.server.http.sendfile import FilePart, send_part
from asgiws.server.http.trusted_proxy import is_proxy, peer_for
from asgiws.server.scope import Peer, http_scope, peer_of
from asgiws.server.state.admission import REFUSED_MOST
from asgiws.server.state.registry import DRAINING, HANDING_OVER, STOPPING
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.websocket.connection import WebSocketConnection
from asgiws.server.websocket.handshake_response import encode_refusal
from asgiws.server.websocket.session import begin_session
from asgiws.server.websocket.waiting import WaitingHandshake
from asgiws.telemetry.access_log import log_http

__all__ = ["HTTPConnection"]

# A body that the application did not read is read to its end to keep the connection, but not more than this of it.
_SKIP_MOST_BYTES: Final = 64 * 1024


class HTTPConnection(asyncio.Protocol):
    """A TCP connection that speaks HTTP/1.1."""

    __slots__ = (
        "_body", "_cycle", "_flow", "_half_closed", "_lingering", "_peer", "_proxied", "_reader", "_refusal",
        "_skipped_bytes", "_state", "_ticks", "_transport", "_via", "worker",
    )  # fmt: skip

    def __init__(self, worker: WorkerState) -> None:
        self.worker = worker
        self._reader = HeadReader(worker.limits, worker.heads)
        self._state = State.NEW
        self._ticks = 0
        """Ticks in the present wait: for a head, a body, a next request, or the client to take what was sent."""
        self._cycle: RequestCycle | None = None
        self._body: BodyReader | None = None
        self._skipped_bytes = 0
        self._half_closed = False
        self._refusal: Violation | None = None
        """The limit of connections that this one exceeds, and then it does not count towards them."""
        self._via: Peer
        """The other end of the connection."""
        self._proxied = False
        """Whether that is a trusted proxy."""
        self._peer: Peer
        """Where the present request comes from."""
        self._lingering: LingeringClose
        """Set in LINGERING."""
        self._flow: FlowControl
        self._transport: asyncio.Transport

    # ---- called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with the two ends of the transport."""
        # uvloop's transports are not subclasses of asyncio.Transport, only the same in every method.
        self.begin(cast("asyncio.Transport", transport), peer_of(transport))

    def begin(self, transport: asyncio.Transport, peer: Peer) -> None:
        """Begin, unless there are too many connections already."""
        self._transport = transport
        worker = self.worker
        self._peer = self._via = peer
        self._proxied = is_proxy(worker, peer, transport)
        config = worker.config
        self._flow = FlowControl(transport, config.write_high_water, worker.write_low_water)
        self._refusal = violation = worker.admission.admit(peer.client)
        if violation is not None and len(worker.registry.connections) - worker.admission.admitted >= REFUSED_MOST:
            worker.counters.rejections[violation.rule.name] += 1
            transport.abort()
            return
        worker.registry.connections[self] = None
        if violation is not None and config.refusal == "http":
            self._reject(violation)  # else once its head has said whether it can be answered with a Close
        elif worker.registry.phase == STOPPING:
            self._finish(discard=False)

    def data_received(self, data: bytes) -> None:
        """Handle bytes of a head, of a body, or of what follows it."""
        state = self._state
        if state <= State.HEAD:
            self._advance(data)
        elif state == State.REQUEST:
            self._read_body(data)
        elif state == State.SKIPPING:
            self._reader.buffer += data
            self._skip_body()

    def eof_received(self) -> bool:
        """Keep our side open while a response is being sent: a client may half-close (RFC 9112 §9.6).

        The application receives `http.disconnect`, because this is also how most clients leave.
        """
        self._half_closed = True
        if self._state != State.REQUEST or self._cycle is None:
            return False
        self._cycle.disconnect(over=False)
        return self._cycle.body_complete

    def pause_writing(self) -> None:
        """Make `send` wait."""
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        """Let `send` continue, and the requests that follow a response that was not read."""
        self._flow.resume_writing()
        if self._state in (State.IDLE, State.HEAD):
            self._advance()

    def connection_lost(self, exc: Exception | None) -> None:
        """End, and report it to the application."""
        self._state, self._ticks = NEXT[self._state, Moved.TCP_LOST], 0
        self._flow.end()
        self.worker.registry.remove(self)
        if self._refusal is None:
            self.worker.admission.release(self._via.client)
        if self._cycle is not None:
            self._end_cycle(self._cycle, complete=self._cycle.whole)

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards the deadline of the present state."""
        self._ticks += 1
        deadlines, state, config = self.worker.deadlines, self._state, self.worker.config
        if state == State.LINGERING:
            self._lingering.on_tick()
        elif self._flow.write_paused:
            self._ticks = 0
            if is_too_slow(self._flow, deadlines):
                drop_slow_client(self.worker, self._transport, self._peer.client)
        elif state == State.REQUEST:
            if self._cycle is None or not self._cycle.waits_for_body:
                self._ticks = 0
            elif deadlines.body and self._ticks >= deadlines.body:
                self._reject(Violation(errors.BODY_TIMEOUT, f"no body byte for {config.body_timeout:g} s"))
        elif state == State.HEAD:
            if deadlines.head and self._ticks >= deadlines.head:
                self._reject(Violation(errors.HEAD_TIMEOUT, f"no whole head in {config.head_timeout:g} s"))
        else:
            deadline = {State.NEW: deadlines.head, State.IDLE: deadlines.keep_alive}.get(state, deadlines.close)
            if self.worker.registry.phase >= HANDING_OVER:
                deadline = deadlines.last
            if deadline and self._ticks >= deadline:
                self._finish(discard=False)

    def begin_drain(self) -> None:
        """Announce the end of the connection with the present response, unless its head is written already."""
        if self._cycle is not None and self._cycle.response.head_pending:
            self._cycle.response.keep_alive = False

    @property
    def spreads_drain(self) -> bool:
        """Whether `begin_shutdown` ends an event stream, whose client reconnects at once."""
        return self._cycle is not None and self._cycle.response.event_stream

    def begin_shutdown(self) -> None:
        """End after the open response; at once when there is none, or when it is an event stream, which has no end.

        Where another process takes over, no request may be lost: one that the client has sent on a connection that we
        have kept for it can be on its way. So such a connection waits for its last request, which is answered with
        `connection: close`, for as long as `Deadlines.last` says, counted from now.
        """
        if self.spreads_drain:
            self._end_event_stream()
        elif self._state in (State.NEW, State.IDLE, State.HEAD, State.SKIPPING):
            if self.worker.registry.phase != HANDING_OVER:
                self._finish(discard=False)
            elif self._state != State.HEAD:
                self._ticks = 0

    def abort(self) -> None:
        """End the TCP connection now."""
        self._transport.abort()

    @property
    def busy(self) -> bool:
        """Whether a request is with the application."""
        return self._state == State.REQUEST

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait for the client to take them."""
        return self._transport.get_write_buffer_size()

    # ---- called by the request cycle

    async def send_part(self, part: FilePart, ended: Callable[[], bool]) -> None:
        """Send a part of a file as it is."""
        await send_part(self.worker, self._transport, self._flow, self._peer.client, part, ended)

    def skips_body(self) -> bool:
        """Return whether what is left of the request body is little enough to be read and dropped."""
        return self._body is None or not self._body.is_longer_than(_SKIP_MOST_BYTES)

    def on_body_taken(self) -> None:
        """Resume reading: the application has taken what was held for it."""
        self._ticks = 0
        if self._flow.reading_paused:
            self._read_body()

    def on_response_done(self, cycle: RequestCycle) -> None:
        """Continue with the next request, or end the connection."""
        if self._cycle is not cycle:
            return
        registry = self.worker.registry
        self._end_cycle(cycle, complete=True)
        # A client that was promised a kept connection may have sent its next request already: a server that is
        # replaced keeps the promise and closes after that request.
        if not cycle.response.keep_alive or self._half_closed or registry.phase == STOPPING:
            self._finish(discard=not cycle.body_complete or bool(self._reader.buffer))
        elif cycle.body_complete:
            self._next_request()
        else:
            self._state, self._ticks = NEXT[self._state, Moved.BODY_LEFT], 0
            self._skipped_bytes = 0
            self._flow.resume_reading()
            self._skip_body()

    def on_response_abandoned(self, cycle: RequestCycle) -> None:
        """End the connection: the client has left, and the application with it."""
        self._end_cycle(cycle, complete=cycle.whole)
        self._finish(discard=False)

    def _end_event_stream(self) -> None:
        """End the response between two events, as if it were complete, and the connection with it."""
        cycle = self._cycle
        assert cycle is not None
        if not self._transport.is_closing():
            self._transport.write(cycle.response.end_stream())
        self._end_cycle(cycle, complete=True)
        self._finish(discard=not cycle.body_complete)

    def _end_cycle(self, cycle: RequestCycle, *, complete: bool) -> None:
        """Count and log the present request, and let its application know that it is over."""
        self._cycle = None
        counters, response = self.worker.counters, cycle.response
        seconds = time.monotonic() - cycle.began_s
        if complete:
            counters.http_responses[response.status] += 1
            counters.requests.add(seconds)
        if self.worker.config.access_log:
            head = cycle.head
            log_http(
                self._peer.client, head.method, head.target, head.query, head.http_version,
                status=response.status, bytes_out=response.sent_bytes, seconds=seconds, complete=complete,
            )  # fmt: skip
        cycle.disconnect(over=True)

    # ---- requests

    def _advance(self, data: bytes = b"") -> None:
        """Add bytes that arrived; begin the next request once its head is whole and the response before it is sent."""
        if self._flow.write_paused:
            # A client that sends requests and reads no responses waits here, with one head's worth of bytes.
            self._reader.buffer += data
            self._flow.pause_reading()
            return
        head = self._reader.feed(data)
        if head is None:
            if self._reader.buffer and self._state != State.HEAD:
                self._state, self._ticks = NEXT[self._state, Moved.HEAD_BEGAN], 0
            self._flow.resume_reading()
            return
        if isinstance(head, Violation):
            self._reject(head)
            return
        if self._proxied and (head.forwarded or self.worker.admission.tenant_field):
            self._peer = peer_for(self.worker, head, self._via)
        if self._refusal is not None:  # there may be room by now
            self._refusal = self.worker.admission.admit(self._via.client)
        if b"websocket" in head.upgrade:  # RFC 9110 §7.8
            self._begin_websocket(head)
        else:
            self._begin_request(head)

    def _begin_request(self, head: RequestHead) -> None:
        worker, admission = self.worker, self.worker.admission
        if self._refusal is not None or admission.overload is not None:
            violation = self._refusal or admission.admit_request(head.path)
            if violation is not None:
                self._reject(violation, head.target)
                return
        worker.counters.http_requests += 1
        if head.upgrade_lost:
            worker.incidents.on_upgrade_lost(self._peer.client)
        self._body = body = (
            None if head.content_length in (None, 0) and not head.chunked else body_reader(head, worker.limits)
        )
        self._state, self._ticks = NEXT[self._state, Moved.REQUEST_BEGAN], 0
        self._cycle = cycle = RequestCycle(self, self._transport, self._flow, head, body is None)
        if worker.registry.phase >= DRAINING:
            cycle.response.keep_alive = False
        if self._reader.buffer:
            self._read_body()
        elif self._flow.reading_paused:
            self._flow.resume_reading()
        if self._cycle is cycle:
            worker.registry.start(cycle.run(http_scope(worker, head, self._peer)), head.target)

    def _read_body(self, data: bytes = b"") -> None:
        """Add bytes that arrived; pass on those of the body, and hold those of the next request."""
        cycle, body, buffer = self._cycle, self._body, self._reader.buffer
        if cycle is not None and body is not None and not body.complete:
            self._ticks = 0
            taken = body.feed(data, buffer)
            if isinstance(taken, Violation):
                self._reject(taken)
                return
            behind = cycle.feed(taken, body.complete) and not body.complete
        else:
            buffer += data
            behind = False
        if behind or len(buffer) > self.worker.limits.head_bytes:
            self._flow.pause_reading()
        else:
            self._flow.resume_reading()

    def _skip_body(self) -> None:
        """Drop the rest of a body that the application did not read, to reach the next request."""
        body = self._body
        assert body is not None
        data = body.read(self._reader.buffer)
        if isinstance(data, Violation) or self._skipped_bytes + len(data) > _SKIP_MOST_BYTES:
            self._finish(discard=True)
            return
        self._skipped_bytes += len(data)
        if body.complete:
            self._next_request()

    def _next_request(self) -> None:
        self._body = None
        self._peer = self._via
        self._state, self._ticks = NEXT[self._state, Moved.REQUEST_DONE], 0
        if self._reader.buffer:
            self._advance()
        elif self._flow.reading_paused:
            self._flow.resume_reading()

    def _begin_websocket(self, head: RequestHead) -> None:
        """Check the handshake (RFC 6455 §4.2.1), and hand the connection over."""
        worker, peer = self.worker, self._peer
        handshake = check_handshake(head)
        if isinstance(handshake, Violation):
            self._reject_handshake(handshake, head.target)
            return
        origins = worker.config.allowed_origins
        if origins and not origin_allowed(handshake.origin, origins):
            reason = f"origin {escape(handshake.origin or b'')[:80]}, not one of the allowed origins"
            self._reject_handshake(Violation(errors.ORIGIN_NOT_ALLOWED, reason), head.target)
            return
        if worker.registry.phase == STOPPING:
            self._finish(discard=False)
            return
        violation = self._refusal or worker.admission.admit_handshake(peer.client, peer.tenant)
        if violation is not None:
            self._reject_handshake(violation, head.target, handshake)
            return
        self._state, self._ticks = NEXT[self._state, Moved.UPGRADE], 0
        early, openings = bytes(self._reader.buffer), worker.admission.openings
        if openings.most and openings.full:
            waiting = WaitingHandshake(worker, self._transport, self._flow, peer, head)
            worker.registry.replace(self, waiting)
            waiting.begin(early)
            return
        websocket = WebSocketConnection(worker, self._transport, self._flow, peer, head.target, handshake)
        worker.registry.replace(self, websocket)
        begin_session(websocket, head, peer, handshake.subprotocols, early)

    def _reject_handshake(self, violation: Violation, target: bytes, valid: Handshake | None = None) -> None:
        self.worker.counters.websockets_rejected += 1
        self._reject(violation, target, valid)

    # ---- ends

    def _reject(self, violation: Violation, path: bytes = b"", handshake: Handshake | None = None) -> None:
        """Answer a request that broke a rule, and end the connection: what follows cannot be trusted."""
        cycle, self._cycle = self._cycle, None
        answer, code = encode_refusal(self.worker, violation, handshake)
        self.worker.incidents.reject(violation, self._peer.client, path if cycle is None else cycle.head.target, code)
        if cycle is None or cycle.response.head_pending:
            self._transport.write(answer)
        self._finish(discard=True)
        if cycle is not None:
            cycle.disconnect(over=True)

    def _finish(self, *, discard: bool) -> None:
        """Close once everything written has left; with `discard`, the client may still be sending."""
        self._state, self._ticks = NEXT[self._state, Moved.LAST_WRITTEN], 0
        self._reader.buffer.clear()
        self._body = None
        self._flow.release_senders()
        self._lingering = LingeringClose(
            self._transport, self.worker.deadlines.close, discard=discard and not self._half_closed
        )
