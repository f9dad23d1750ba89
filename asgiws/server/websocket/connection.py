"""One WebSocket connection: what its transport, the sweep and the server call.

Takes over from the HTTP connection after a handshake (`transport.set_protocol`), with the parsed head and the bytes
that followed it. The application's side, with `receive` and `send`, is `asgiws.server.websocket.session`; why and how
a connection ends is decided by `asgiws.server.websocket.closing_handshake`.

In: `data_received` -> `Receiver.feed` -> inbox. Reading is paused while the inbox is full and more data has arrived.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Final, cast

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.websocket import closing
from asgiws.protocol.websocket.closing import Close, Moved, State
from asgiws.protocol.websocket.deflate import DEDICATED
from asgiws.protocol.websocket.frames import FIN, PING, PONG, encode_frame
from asgiws.protocol.websocket.handshake import Handshake
from asgiws.protocol.websocket.receiver import ENDED, Item, Receiver
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.connection.lingering_close import LingeringClose
from asgiws.server.connection.slow_client import drop_slow_client
from asgiws.server.scope import Peer
from asgiws.server.state.registry import HANDING_OVER
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.websocket import deadlines
from asgiws.server.websocket.closing_handshake import ClosingHandshake, shutdown_close
from asgiws.server.websocket.cork import Cork
from asgiws.server.websocket.deadlines import ConnectionDeadlines
from asgiws.server.websocket.handshake_response import HandshakeResponse
from asgiws.telemetry.access_log import log_websocket_end, log_websocket_refused
from asgiws.topics.extension import ConnectionSubscriber

__all__ = ["WebSocketConnection"]

_OPEN: Final = State.OPEN
"""Where a message passes, a name is faster than an attribute."""
_EARLY_MOST_BYTES: Final = 64 * 1024
_PING_FRAME: Final = encode_frame(FIN | PING, b"asgiws")


class WebSocketConnection(asyncio.Protocol):
    """A connection from the handshake request to the end of its TCP connection."""

    __slots__ = (
        "_deadlines", "_lingering", "_ping_sent_s", "_pong_held", "began_s", "bytes_out", "client", "closing",
        "compression", "cork", "encoder", "flow", "inbox", "messages_out", "number", "path", "receiver", "response",
        "round_trip_s", "subprotocol", "subscriptions", "tenant", "transport", "via", "waiter", "worker",
    )  # fmt: skip

    spreads_drain = True

    def __init__(
        self,
        worker: WorkerState,
        transport: asyncio.Transport,
        flow: FlowControl,
        peer: Peer,
        path: bytes,
        handshake: Handshake,
    ) -> None:
        self.worker = worker
        self.transport = transport
        self.flow = flow
        self.client, self.via, self.tenant = peer.client, peer.via, peer.tenant
        self.path = path
        """The path of the handshake request, without its query."""
        self.closing = ClosingHandshake()
        self.response: HandshakeResponse | None = HandshakeResponse(worker, handshake)
        """The answer to the handshake; None after a 101."""
        self.inbox: list[Item] = []
        self.receiver = Receiver(worker.limits, self.inbox)
        self.waiter: asyncio.Future[None] | None = None
        """What `receive` waits for; when several tasks receive, the last one, which wakes the others."""
        self.encoder = worker.encoders.plain
        """Encodes the messages that are sent."""
        self.cork: Cork | None = None
        """Made for the first frame that is held, with a call of `flush` when the loop turns."""
        self._deadlines = ConnectionDeadlines(worker.deadlines, flow)
        self._lingering: LingeringClose | None = None
        self.subscriptions: ConnectionSubscriber | None = None
        """Made with the first subscription to a topic."""
        self.subprotocol: str | None = None
        self.compression = "off"
        self._pong_held: bytes | None = None
        """The newest pong that could not be written while writing was paused; an older one is replaced."""
        self._ping_sent_s = self.round_trip_s = 0.0
        """`round_trip_s` is that of the last ping that was answered; 0 before that."""
        self.messages_out = 0
        self.bytes_out = 0
        """On the wire, with control frames."""
        self.began_s = time.monotonic()
        worker.counters.handshakes += 1
        self.number = worker.counters.handshakes
        """Of all handshakes of this process, from 1: what a connection is called by its operator."""

    # ---- called by the transport

    def data_received(self, data: bytes) -> None:
        """Parse what arrived; wake the application when there is a message."""
        self._deadlines.quiet_ticks = 0
        receiver = self.receiver
        if self.closing.state != _OPEN or receiver.blocked:
            self._on_unparsed(data)
            return
        receiver.feed(data)
        if receiver.pings or receiver.pong is not None:
            self._on_controls()
        if self.inbox:
            # `wake`, inlined: a call less for each message
            waiter = self.waiter
            if waiter is not None:
                self.waiter = None
                if not waiter.done():
                    waiter.set_result(None)
            if receiver.state == ENDED:
                self._on_end_received()

    def pause_writing(self) -> None:
        """Make `send` wait: the transport holds more than the high-water mark."""
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        """Let `send` continue."""
        if self._pong_held is not None and self.closing.state == State.OPEN:
            self._write_control(self._pong_held)
            self._pong_held = None
        self.flow.resume_writing()

    def eof_received(self) -> bool:
        """Handle the end of what the client sends; return whether our side stays open (RFC 6455 §7.1.5).

        A client that half-closes without a Close frame is gone. One whose Close waits in line, or may be in data that
        is not parsed yet, still receives the answers to its earlier messages, for as long as `answer_timeout`.
        """
        if self.closing.state != State.OPEN:
            return False
        if (self.receiver.state == ENDED or self.receiver.blocked) and self.transport.can_write_eof():
            self._deadlines.expect_answer()
            return True
        self._end_lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake everything that waits, and add up the counts."""
        worker, counters, receiver = self.worker, self.worker.counters, self.receiver
        unanswered = self.closing.state in (State.CONNECTING, State.DENYING)
        self.closing.advance(Moved.TCP_LOST)
        self.closing.ended_by = self.closing.ended_by or "client"
        self.cork = None
        if self.subscriptions is not None:
            self.subscriptions.end()
        self.flow.end()
        waiters = [] if self.closing.drain is None else self.closing.drain.waiters
        if self.waiter is not None:
            waiters = [self.waiter, *waiters]
            self.waiter = None
        if waiters:
            worker.departures.add(waiters)
        worker.registry.remove(self)
        worker.admission.release(self.via, self.tenant)
        counters.messages_in += receiver.messages_in
        counters.bytes_in += receiver.bytes_in
        counters.messages_out += self.messages_out
        counters.bytes_out += self.bytes_out
        if worker.deflate_settings.mode == DEDICATED:
            before, after = self.encoder.own_compression
            counters.compressed_from += before
            counters.compressed_to += after
        if self.response is None:
            self._report_end()
        elif unanswered:
            counters.websockets_abandoned += 1
            self._report_refused()
        # Counted; messages that the application still receives are counted when it returns.
        receiver.messages_in = 0

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards every deadline. An idle open connection costs the first lines only."""
        receiver, limits = self.receiver, self._deadlines
        if self.closing.state == State.OPEN:
            if second_passed and limits.quiet_ticks * self.worker.deadlines.tick_s < 3:
                receiver.allow_another_second()
            due = limits.tick_open(
                reading_blocked=receiver.blocked, message_count=receiver.messages_in + self.messages_out
            )
        elif self._lingering is not None:
            self._lingering.on_tick()
            return
        else:
            due = limits.tick_not_open(self.closing.state)
        if due:
            self._on_due(due)

    def begin_shutdown(self) -> None:
        """Close, because the server stops; the application learns of it before."""
        if self.closing.state == State.OPEN:
            self.begin_drain(shutdown_close(self.worker.config), "server")
        elif self.closing.state == State.CONNECTING and self.worker.registry.phase != HANDING_OVER:
            self.deny(self.opening().refuse_for_stop(), "server")

    def abort(self) -> None:
        """End the TCP connection now."""
        self.closing.ended_by = self.closing.ended_by or "server"
        self.transport.abort()

    def close(self, close: Close, by: str) -> bool:
        """Close the connection if it is open; return whether it was."""
        was_open = self.closing.is_open
        if was_open:
            self.begin_close(close, by)
        return was_open

    def begin_drain(self, close: Close, by: str) -> None:
        """Close in `drain_notice` seconds, of which the application learns now."""
        if self.closing.draining or not self.closing.is_open:
            return
        worker, notice_s = self.worker, self.worker.config.drain_notice
        self.closing.drain_notice().begin(close_at_s := worker.loop.time() + notice_s)
        if notice_s:
            worker.counters.drain_notices += 1
            worker.announced_closes.add(close_at_s, partial(self.close, close, by))
        else:
            self.begin_close(close, by)

    # ---- in

    def _on_unparsed(self, data: bytes) -> None:
        """Handle bytes that are not parsed now: before the accept, while the inbox is full, or after the end."""
        receiver, state = self.receiver, self.closing.state
        if state == State.CLOSING:
            if receiver.blocked:
                receiver.hold(data)
            else:
                receiver.feed(data)
                self._look_for_close()
        elif state <= State.OPEN:
            receiver.hold(data)
            # Two reads at most: the one that filled the inbox, and the one that had begun.
            if state == State.OPEN or receiver.held_bytes > _EARLY_MOST_BYTES:
                self.flow.pause_reading()

    def parse_held(self) -> None:
        """Parse what was held, and resume reading when that was all."""
        receiver = self.receiver
        receiver.resume()
        if not receiver.blocked and self.flow.reading_paused:
            self._deadlines.quiet_ticks = 0
            self.flow.resume_reading()
        if receiver.pings or receiver.pong is not None:
            self._on_controls()
        if self.inbox:
            self.wake()
            if receiver.state == ENDED:
                self._on_end_received()

    def _on_controls(self) -> None:
        """Answer pings, each with its payload (RFC 6455 §5.5.2), and measure a pong."""
        receiver = self.receiver
        pings, receiver.pings = receiver.pings, None
        if pings and self.closing.state == State.OPEN:
            if self.flow.write_paused:
                # §5.5.3: only the most recent ping needs an answer, so a client that does not read costs one.
                self._pong_held = encode_frame(FIN | PONG, pings[-1])
            else:
                self._write_control(b"".join([encode_frame(FIN | PONG, payload) for payload in pings]))
        if receiver.pong is not None and self._ping_sent_s:
            self.round_trip_s = time.monotonic() - self._ping_sent_s
            self.worker.counters.round_trips.add(self.round_trip_s)
            self._ping_sent_s = 0.0
        receiver.pong = None

    def wake(self) -> None:
        """Wake `receive`."""
        waiter, self.waiter = self.waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def flush(self) -> None:
        """Write the frames that are held."""
        cork, self.cork = self.cork, None
        if cork is not None:
            self.transport.write(b"".join(cork.frames))

    def _write_control(self, frame: bytes) -> None:
        self.bytes_out += len(frame)
        self.transport.write(frame)

    # ---- the answer to the handshake

    def opening(self) -> HandshakeResponse:
        """Return the answer to the handshake, before a 101."""
        assert self.response is not None
        return self.response

    def deny(self, answer: bytes, by: str) -> None:
        """Answer the handshake, and end."""
        self.transport.write(answer)
        self.on_denied(by)

    def on_denied(self, by: str) -> None:
        """End: the whole answer is written."""
        self.closing.ended_by = by
        self.worker.counters.websockets_refused += 1
        self.worker.admission.openings.end(self)
        self._report_refused()
        self._linger(Moved.REFUSED, discard=self.receiver.blocked or self.opening().closes)  # whose reply comes

    # ---- the peer's end

    def _on_end_received(self) -> None:
        """Decide when the Close or violation at the end of the inbox takes effect."""
        item = self.inbox[-1]
        if len(self.inbox) == 1 and isinstance(item, Close):
            self.inbox.clear()
            self.end_with(item)
        else:
            # `receive` reaches it; for an application that does not call it, a deadline does.
            self._deadlines.expect_answer()

    def end_with(self, item: Close | Violation) -> None:
        """Let the peer's Close or violation take effect."""
        violated = isinstance(item, Violation)
        if isinstance(item, Violation):
            self.worker.incidents.reject(item, self.client, self.path)
        answer = self.closing.answer(item)
        if self.closing.state == State.OPEN:
            self._write_close(answer)
            self._linger(Moved.CLOSE_DONE, discard=violated)

    def _end_lost(self) -> None:
        """End a connection whose client has gone without a Close."""
        self.closing.ended_by = self.closing.ended_by or "client"
        self._linger(Moved.CLOSE_DONE, discard=False)

    def _look_for_close(self) -> None:
        """Read only for the peer's Close, which completes the closing handshake."""
        receiver, inbox = self.receiver, self.inbox
        while self.closing.state == State.CLOSING:
            last = inbox[-1] if inbox else None
            inbox.clear()
            receiver.queued = 0
            receiver.pings = None
            if isinstance(last, Close | Violation):
                self._linger(Moved.CLOSE_DONE, discard=isinstance(last, Violation))
            elif receiver.blocked:
                # One inbox a turn: what is discarded has to be inflated all the same.
                self.flow.pause_reading()
                self.worker.loop.call_soon(self._discard_more)
                return
            else:
                self.flow.resume_reading()
                return

    def _discard_more(self) -> None:
        if self.closing.state == State.CLOSING:
            self.receiver.resume()
            self._look_for_close()

    # ---- our end

    def begin_close(self, close: Close, by: str) -> None:
        """Send our Close, and await the peer's unless it has arrived (RFC 6455 §7.1.2)."""
        self.closing.begin(close, by)
        self._write_close(close)
        self._enter(Moved.CLOSE_SENT)
        self.flow.resume_reading()
        self._look_for_close()

    def _write_close(self, close: Close) -> None:
        self.flush()
        self._write_control(closing.encode_close(close))

    def _linger(self, event: int, *, discard: bool) -> None:
        """Close the TCP connection once everything written has left; `discard` what a peer may still be sending."""
        self._enter(event)
        self._lingering = LingeringClose(self.transport, self.worker.deadlines.close, discard=discard)

    def _enter(self, event: int) -> None:
        """Move to a state in which the application cannot send, and wake it."""
        self.closing.advance(event)
        self._deadlines.enter_state()
        self.wake()
        self.flow.release_senders()

    def _on_due(self, due: int) -> None:
        """Act on a deadline."""
        if due == deadlines.PING_NOW:
            self._ping_sent_s = time.monotonic()
            self._write_control(_PING_FRAME)
        elif due in deadlines.CLOSE_WHEN_DUE:
            self.begin_close(deadlines.CLOSE_WHEN_DUE[due], "server")
            if due == deadlines.DEAD:
                self.worker.counters.keepalive_timeouts += 1
                # The loop turns once, so that the Close can leave, and then the connection is gone.
                self.worker.loop.call_soon(self.transport.abort)
        elif due == deadlines.ANSWER_LATE:
            if self.inbox and isinstance(self.inbox[-1], Close | Violation):
                self.end_with(cast("Close | Violation", self.inbox.pop()))
            else:
                self._end_lost()
        elif due == deadlines.OPENING_LATE:
            fault = Violation(errors.HANDSHAKE_TIMEOUT, "application did not answer the handshake in time")
            self.closing.rule = fault.rule.name
            self.deny(self.opening().reject(fault, self.client, self.path), "server")
        elif due == deadlines.SLOW_CLIENT:
            self.drop_slow_consumer()
        else:
            self.abort()

    def drop_slow_consumer(self) -> None:
        """End the connection, because its client does not read what is sent to it."""
        self.closing.begin(Close(1006, "slow consumer"), "server")
        drop_slow_client(self.worker, self.transport, self.client)

    # ---- what is known

    @property
    def unsent_bytes(self) -> int:
        """What waits to be sent, here and in the transport."""
        return self.transport.get_write_buffer_size() + (0 if self.cork is None else self.cork.held_bytes)

    def _report_refused(self) -> None:
        """Log a handshake that did not become a connection; without a status when the client left before it had one."""
        if self.worker.config.access_log:
            log_websocket_refused(
                self.client, self.path, self.opening().status, ended_by=self.closing.ended_by,
                rule=self.closing.rule, seconds=time.monotonic() - self.began_s,
            )  # fmt: skip

    def _report_end(self) -> None:
        """Count and log the end; the application may still have messages to receive before it."""
        worker, receiver, end = self.worker, self.receiver, self.closing.final(self.inbox)
        seconds = time.monotonic() - self.began_s
        worker.counters.closes[self.closing.ended_by, end.code] += 1
        worker.counters.lifetimes.add(seconds)
        if worker.config.access_log:
            log_websocket_end(
                self.client, self.path, subprotocol=self.subprotocol, compression=self.compression,
                code=end.code, reason=end.reason, ended_by=self.closing.ended_by, rule=self.closing.rule,
                seconds=seconds, messages_in=receiver.messages_in, bytes_in=receiver.bytes_in,
                messages_out=self.messages_out, bytes_out=self.bytes_out, round_trip_s=self.round_trip_s,
            )  # fmt: skip
