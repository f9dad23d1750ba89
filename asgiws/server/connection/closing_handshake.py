"""How a WebSocket connection ends: by whom, with which code, and what each side is told.

The part of a connection that has the state, the Close frames and the deadlines. `asgiws.server.connection.websocket`
adds the opening and the messages.

States and who moves them are in `asgiws.protocol.websocket.closing`. Each end of a connection is one row of this table:

    peer's Close          same code back, TCP closed        app: that code and reason; 1005 when it had none
    TCP lost              nothing to send to                app: 1006
    violation             Close 1002, 1007, 1008, 1009      app: that code and reason
    no answer to a ping   Close 1011, TCP aborted           app: 1011
    stuck writes          TCP aborted                       app: 1006 "slow consumer"
    app closes            Close, its answer awaited         app: its own code and reason, if it asks
    app returns           Close 1000
    app raises            Close 1011, logged
    server stops          Close 1012                        app: 1012

A Close or a violation keeps its place in line: what came before it is delivered first, and what the application
answers to that leaves before the Close. A violation waits for `receive` to reach it, but no longer than
`answer_timeout`; a Close does so only while undelivered messages stand before it.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import deque
from typing import Any, Final, cast

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import Header
from asgiws.protocol.websocket import closing
from asgiws.protocol.websocket.closing import CLOSING, CONNECTING, DENYING, OPEN, Close
from asgiws.protocol.websocket.deflate import DEDICATED
from asgiws.protocol.websocket.frames import FIN, PING, encode_frame
from asgiws.protocol.websocket.handshake import Handshake
from asgiws.protocol.websocket.receiver import ENDED, Item, Receiver
from asgiws.server.connection.deadlines import (
    ANSWER_LATE,
    DEAD,
    IDLE_TOO_LONG,
    LIFETIME_OVER,
    OPENING_LATE,
    PING_NOW,
    Watch,
)
from asgiws.server.connection.flow_control import FlowControl, wake
from asgiws.server.connection.handshake_response import Opening
from asgiws.server.scope import Peer
from asgiws.server.state.worker_state import WorkerState
from asgiws.telemetry.access_log import format_address, log_websocket_end, log_websocket_refused

__all__ = ["Ending", "Figures"]

Figures = tuple[int, int, int, int, int, int, int, float]
"""Unsent bytes, messages and bytes in the inbox, messages and bytes in, messages and bytes out, the last round trip."""

_ABNORMAL: Final = Close(1006, "")
_PING_FRAME: Final = encode_frame(FIN | PING, b"asgiws")
# Of a path, in what an operator is shown
_PATH_MOST: Final = 200


class Ending(asyncio.Protocol):
    """The life of a connection from its handshake request on, seen from its end."""

    __slots__ = (
        "_began_s", "_compression", "_worker", "_cork", "_corked_bytes", "_encoder", "_end", "_ended_by", "_flow",
        "_inbox", "_loop", "_opening", "_path", "_peer", "_ping_sent_s", "_receiver", "_rule", "_state", "_subprotocol",
        "_transport", "_waiters", "_watch", "bytes_out", "messages_out", "number", "round_trip_s",
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
        self._worker = worker
        self._loop = worker.loop
        self._transport = transport
        self._flow = flow
        self._peer = peer
        self._path = path
        self._subprotocol: str | None = None
        self._compression = "off"
        self._state = CONNECTING
        self._opening: Opening | None = Opening(worker, handshake)
        """The answer to the handshake; None once that was a 101."""
        self._inbox: deque[Item] = deque()
        self._receiver = Receiver(worker.limits, self._inbox)
        self._waiters: list[asyncio.Future[None]] = []
        """`receive` calls that sleep; more than one only when several tasks receive."""
        self._encoder = worker.encoders.encoder_for(None)
        """Of the messages that are sent."""
        self._end: Close | None = None
        """What the disconnect event says; set once, by the first cause."""
        self._ended_by = ""
        self._rule = ""
        self._cork: list[bytes] = []
        self._corked_bytes = 0
        self._watch = Watch(worker.deadlines, flow)
        self._ping_sent_s = 0.0
        self.round_trip_s = 0.0
        """Of the last ping that was answered; 0 before that."""
        self.messages_out = 0
        self.bytes_out = 0
        self._began_s = time.monotonic()
        worker.counters.handshakes += 1
        self.number = worker.counters.handshakes
        """Of all handshakes of this process, from 1: what a connection is called by its operator."""

    # ---- called by the transport

    def eof_received(self) -> bool:
        """Take the end of what the client sends; gives whether our side stays open (RFC 6455 §7.1.5).

        A client that half-closes without a Close frame is gone. One whose Close waits in line, or may stand in what is
        not parsed yet, still gets the answers to what came before it, for as long as `answer_timeout`.
        """
        if self._state != OPEN:
            return False
        if (self._receiver.state == ENDED or self._receiver.blocked) and self._transport.can_write_eof():
            self._watch.expect_answer()
            return True
        self._end_lost()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End: tell whoever waits, and fold the counts in."""
        worker, counters, receiver = self._worker, self._worker.counters, self._receiver
        answered = self._state not in (CONNECTING, DENYING)
        self._state = closing.advance(self._state, closing.TCP_LOST)
        self._ended_by = self._ended_by or "client"
        self._cork.clear()
        self._flow.end()
        wake(self._waiters)
        worker.registry.remove(self)
        worker.admission.release(self._peer.via)
        counters.messages_in += receiver.messages_in
        counters.bytes_in += receiver.bytes_in
        counters.messages_out += self.messages_out
        counters.bytes_out += self.bytes_out
        if worker.deflate_settings.mode == DEDICATED:
            before, after = self.own_compression
            counters.compressed_from += before
            counters.compressed_to += after
        if self._opening is None:
            self._report_end()
        elif not answered:
            counters.websockets_abandoned += 1
            self._report_refused()
        # Told; what the application still has to read is counted when it is done with it.
        receiver.messages_in = 0

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards every deadline. An idle open connection costs the first lines only."""
        state, receiver, watch = self._state, self._receiver, self._watch
        if state == OPEN:
            if second_passed and watch.quiet_ticks * self._worker.deadlines.tick_s < 3:
                receiver.allow_another_second()
            due = watch.tick_open(
                reading_blocked=receiver.blocked, message_count=receiver.messages_in + self.messages_out
            )
        else:
            due = watch.tick_not_open(state)
        if due:
            self._on_due(due)

    def begin_shutdown(self) -> None:
        """Say goodbye: the server stops."""
        if self._state == OPEN:
            self._begin_close(Close(self._worker.config.shutdown_code, "service restart"), "server")
        elif self._state == CONNECTING and not self._worker.registry.replaced:
            self._refuse(503, "server", [(b"retry-after", b"1")])

    def abort(self) -> None:
        """End the TCP connection now."""
        self._ended_by = self._ended_by or "server"
        self._transport.abort()

    def close(self, code: int, reason: str) -> bool:
        """End an open connection because its operator wants it; gives whether it was open."""
        was_open = self._state == OPEN
        if was_open:
            self._begin_close(Close(code, reason), "admin")
        return was_open

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent: the handshake is done and no side has begun to close."""
        return self._state == OPEN

    @property
    def path(self) -> bytes:
        """The path of the handshake request, without its query."""
        return self._path

    @property
    def client_host(self) -> str | None:
        """The client's IP address; None on a Unix socket."""
        client = self._peer.client
        return None if client is None else client[0]

    # ---- the peer's end

    def _on_end_received(self) -> None:
        """Decide when the Close or violation at the end of the inbox takes effect."""
        item = self._inbox[-1]
        if len(self._inbox) == 1 and isinstance(item, Close):
            self._inbox.clear()
            self._end_with(item)
        else:
            # `receive` reaches it; for an application that does not call it, the watch does.
            self._watch.expect_answer()

    def _end_with(self, item: Close | Violation) -> None:
        """Let the peer's Close or violation take effect."""
        if isinstance(item, Violation):
            self._worker.incidents.reject(item, self._peer.client, self._path)
            self._rule = item.rule.name
        if self._end is None:
            if isinstance(item, Violation):
                self._end, self._ended_by = Close(item.rule.code, item.reason), "server"
            else:
                self._end, self._ended_by = item, "client"
        if self._state == OPEN:
            # RFC 6455 §5.5.1: the Close sent in answer typically echoes the status code received
            self._write_close(self._end if isinstance(item, Violation) else Close(item.code, ""))
            self._linger(closing.CLOSE_DONE, discard=isinstance(item, Violation))

    def _end_lost(self) -> None:
        """End a connection whose client has gone without a Close."""
        self._ended_by = self._ended_by or "client"
        self._enter(closing.CLOSE_DONE)

    def _look_for_close(self) -> None:
        """Read on only for the peer's Close, which ends the closing handshake."""
        receiver, inbox = self._receiver, self._inbox
        while self._state == CLOSING:
            last = inbox[-1] if inbox else None
            inbox.clear()
            receiver.queued = 0
            receiver.pings.clear()
            if isinstance(last, Close | Violation):
                self._linger(closing.CLOSE_DONE, discard=isinstance(last, Violation))
            elif receiver.blocked:
                # One inbox a turn: what is thrown away has to be inflated all the same.
                self._flow.pause_reading()
                self._loop.call_soon(self._discard_more)
                return
            else:
                self._flow.resume_reading()
                return

    def _discard_more(self) -> None:
        if self._state == CLOSING:
            self._receiver.resume()
            self._look_for_close()

    # ---- our end

    def _refuse(self, status: int, by: str, fields: list[Header] | None = None) -> None:
        """Answer the handshake with an HTTP error instead (ASGI W5, W10)."""
        self._transport.write(cast("Opening", self._opening).refuse(status, fields or []))
        self._on_denied(by)

    def _on_denied(self, by: str) -> None:
        self._ended_by = by
        self._worker.counters.websockets_refused += 1
        self._report_refused()
        self._linger(closing.REFUSED, discard=self._receiver.blocked)

    def _begin_close(self, close: Close, by: str) -> None:
        """Send our Close, and await the peer's unless it is there already (RFC 6455 §7.1.2)."""
        if self._end is None:
            self._end, self._ended_by = close, by
        self._write_close(close)
        self._enter(closing.CLOSE_SENT)
        self._flow.resume_reading()
        self._look_for_close()

    def _write_close(self, close: Close) -> None:
        self._flush()
        self._transport.write(closing.encode_close(close))

    def _flush(self) -> None:
        if self._cork:
            data = self._cork[0] if len(self._cork) == 1 else b"".join(self._cork)
            self._cork.clear()
            self._corked_bytes = 0
            self._transport.write(data)

    def _linger(self, event: int, *, discard: bool) -> None:
        """Close the TCP connection once everything written has left.

        With `discard`, the peer may still be sending: closing now would reset the connection and destroy the Close on
        its way (RFC 9112 §9.6 describes the same for HTTP). So only our side is closed, and what comes is thrown away
        until the peer closes or `close_timeout` has passed.
        """
        self._enter(event)
        if discard and self._transport.can_write_eof():
            self._transport.write_eof()
            self._flow.resume_reading()
        else:
            self._transport.close()

    def _enter(self, event: int) -> None:
        """Move to a state in which the application can send no more, and let it find out."""
        self._state = closing.advance(self._state, event)
        self._watch.enter_state()
        wake(self._waiters)
        self._flow.release_senders()

    # ---- deadlines

    def _on_due(self, due: int) -> None:
        """Act on what the watch found."""
        if due == PING_NOW:
            self._ping_sent_s = time.monotonic()
            self._transport.write(_PING_FRAME)
        elif due == DEAD:
            self._worker.counters.keepalive_timeouts += 1
            self._begin_close(Close(1011, "keepalive ping timeout"), "server")
            # The loop turns once, so that the Close can leave, and then the connection is gone.
            self._loop.call_soon(self._transport.abort)
        elif due == ANSWER_LATE:
            if self._inbox and isinstance(self._inbox[-1], Close | Violation):
                self._end_with(cast("Close | Violation", self._inbox.pop()))
            else:
                self._end_lost()
                self._transport.close()
        elif due == IDLE_TOO_LONG:
            self._begin_close(Close(1001, "idle timeout"), "server")
        elif due == LIFETIME_OVER:
            self._begin_close(Close(1001, "maximum lifetime"), "server")
        elif due == OPENING_LATE:
            fault = Violation(errors.HANDSHAKE_TIMEOUT, "application did not answer the handshake in time")
            self._worker.incidents.reject(fault, self._peer.client, self._path)
            self._rule = fault.rule.name
            self._refuse(fault.rule.code, "server")
        else:
            if self._state <= OPEN:
                self._end = self._end or Close(1006, "slow consumer")
                self._worker.incidents.on_slow_consumer(self._peer.client)
            self.abort()

    # ---- what is known

    def figures(self) -> Figures:
        """Give its numbers: what it holds now, and what it has carried and measured. The report asks it of each."""
        receiver = self._receiver
        return (
            self._transport.get_write_buffer_size() + self._corked_bytes, len(self._inbox), receiver.queued,
            receiver.messages_in, receiver.bytes_in, self.messages_out, self.bytes_out, self.round_trip_s,
        )  # fmt: skip

    @property
    def own_compression(self) -> tuple[int, int]:
        """Bytes before and after compression, by a compressor that only this connection has."""
        encoder = self._encoder
        return (0, 0) if encoder.shared else (encoder.compressed_from, encoder.compressed_to)

    def describe(self) -> dict[str, Any]:
        """Give what an operator may want to know of it, as JSON has it."""
        unsent, inbox_messages, inbox_bytes, messages_in, bytes_in, messages_out, bytes_out, round_trip_s = (
            self.figures()
        )
        return {
            "number": self.number, "path": self._path[:_PATH_MOST].decode("latin-1"),
            "client": format_address(self._peer.client), "state": closing.STATE_NAMES[self._state],
            "open_s": time.monotonic() - self._began_s, "round_trip_s": round_trip_s, "messages_in": messages_in,
            "bytes_in": bytes_in, "messages_out": messages_out, "bytes_out": bytes_out,
            "inbox_messages": inbox_messages, "inbox_bytes": inbox_bytes, "unsent_bytes": unsent,
        }  # fmt: skip

    def _final_close(self) -> Close:
        """What the disconnect event says: what took effect, else what waits in line, else that it was lost."""
        if self._end is not None:
            return self._end
        last = self._inbox[-1] if self._inbox else None
        if isinstance(last, Violation):
            return Close(last.rule.code, last.reason)
        return last if isinstance(last, Close) else _ABNORMAL

    def _report_refused(self) -> None:
        """Log a handshake that did not become a connection; without a status when the client left before it had one."""
        if self._worker.config.access_log:
            log_websocket_refused(
                self._peer.client, self._path, cast("Opening", self._opening).status, ended_by=self._ended_by,
                rule=self._rule, seconds=time.monotonic() - self._began_s,
            )  # fmt: skip

    def _report_end(self) -> None:
        """Count and log the end; the application may still be on its way to it through the inbox."""
        worker, receiver, end = self._worker, self._receiver, self._final_close()
        seconds = time.monotonic() - self._began_s
        worker.counters.closes[self._ended_by, end.code] += 1
        lifetimes = worker.counters.lifetimes  # what `Histogram.add` does, written out, as all of an end is
        lifetimes.counts[bisect_left(lifetimes.bounds, seconds)] += 1
        lifetimes.total += seconds
        if worker.config.access_log:
            log_websocket_end(
                self._peer.client, self._path, subprotocol=self._subprotocol, compression=self._compression,
                code=end.code, reason=end.reason, ended_by=self._ended_by, rule=self._rule,
                seconds=seconds, messages_in=receiver.messages_in,
                bytes_in=receiver.bytes_in, messages_out=self.messages_out, bytes_out=self.bytes_out,
                round_trip_s=self.round_trip_s,
            )  # fmt: skip
