"""One WebSocket connection: the frames of a client and the `receive` and `send` of an application.

Takes over from the HTTP connection once a handshake was read (`transport.set_protocol`), with the parsed head and the
bytes behind it. From then on the transport calls this object, and the application's task calls this object; between
the two there is one deque, the inbox, and no queue, event or timer.

In: `data_received` -> `Receiver.feed` -> inbox -> `receive`. Reading stops while the inbox is full and more has come.
Out: `send` -> frame -> the transport, at once when the inbox is empty. While more messages wait to be answered, frames
are held back and leave together (the cork): before `receive` goes to sleep, at 64 KiB, or when the loop turns.

States and who moves them are in `asgiws.protocol.closing`. Each end of a connection is one row of this table:

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
from collections import deque
from typing import Any, Final, cast

from asgiws.protocol import closing, errors
from asgiws.protocol.closing import CLOSED, CLOSING, CONNECTING, DENYING, OPEN, Close
from asgiws.protocol.encoder import Encoder
from asgiws.protocol.errors import Violation
from asgiws.protocol.frames import BINARY_HEADS, FIN, PING, PONG, TEXT_HEADS, encode_frame
from asgiws.protocol.handshake import Handshake
from asgiws.protocol.http1 import Header
from asgiws.protocol.receiver import ENDED, FRESH_WINDOW, KEPT_WINDOW, Item, Receiver
from asgiws.server.context import ClientDisconnected, Context, Event, Scope
from asgiws.server.flow import Flow, forget, wake
from asgiws.server.opening import Opening
from asgiws.server.scope import Peer
from asgiws.server.watch import ANSWER_LATE, DEAD, IDLE_TOO_LONG, LIFETIME_OVER, OPENING_LATE, PING_NOW, Watch
from asgiws.telemetry.access import log_websocket_end, log_websocket_open, log_websocket_refused
from asgiws.telemetry.logs import LOG, escape

__all__ = ["WebSocketConnection"]

_CORK_MOST_BYTES: Final = 64 * 1024
_EARLY_MOST_BYTES: Final = 64 * 1024
_ABNORMAL: Final = Close(1006, "")
# Every 128th message of a connection lets the loop turn.
_TURN_MASK: Final = 127
_PING_FRAME: Final = encode_frame(FIN | PING, b"asgiws")


class WebSocketConnection(asyncio.Protocol):
    """A connection from the handshake request to the end of its TCP connection."""

    __slots__ = (
        "_began_s", "_connect_owed", "_context", "_cork", "_corked_bytes", "_encoder", "_end", "_ended_by", "_flow",
        "_inbox", "_loop", "_opening", "_path", "_peer", "_ping_sent_s", "_pong_held", "_receiver", "_rule",
        "_short_below", "_state", "_transport", "_waiters", "_watch", "bytes_out", "messages_out", "round_trip_s",
    )  # fmt: skip

    def __init__(
        self, context: Context, transport: asyncio.Transport, flow: Flow, peer: Peer, path: str, handshake: Handshake
    ) -> None:
        self._context = context
        self._loop = context.loop
        self._transport = transport
        self._flow = flow
        self._peer = peer
        self._path = path
        self._state = CONNECTING
        self._connect_owed = True
        """Whether `websocket.connect` is still to be given, the first event whatever happens (ASGI W4)."""
        self._opening: Opening | None = Opening(context, handshake)
        """The answer to the handshake; None once that was a 101."""
        self._inbox: deque[Item] = deque()
        self._receiver = Receiver(context.limits, self._inbox)
        self._waiters: list[asyncio.Future[None]] = []
        """`receive` calls that sleep; more than one only when several tasks receive."""
        self._end: Close | None = None
        """What the disconnect event says; set once, by the first cause."""
        self._ended_by = ""
        self._rule = ""
        self._encoder: Encoder = context.encoder(None)
        self._short_below = 126
        """Messages of fewer characters than this are framed in `send`, without the encoder."""
        self._cork: list[bytes] = []
        self._corked_bytes = 0
        self._pong_held: bytes | None = None
        """The newest pong that could not be written while writing was paused; an older one is replaced."""
        self._watch = Watch(context.deadlines, flow)
        self._ping_sent_s = 0.0
        self.round_trip_s = 0.0
        """Of the last ping that was answered; 0 before that."""
        self.messages_out = 0
        self.bytes_out = 0
        self._began_s = time.monotonic()

    def begin(self, scope: Scope, rest: bytes) -> None:
        """Start the application; `rest` is what came behind the handshake in the same packets."""
        self._context.connections.add(self)
        if rest:
            self._receiver.hold(rest)
        self._context.start(self._run(scope))

    # ---- called by the transport

    def data_received(self, data: bytes) -> None:
        """Parse what came; wake the application when a message is there."""
        self._watch.quiet_ticks = 0
        receiver = self._receiver
        if self._state != OPEN or receiver.blocked:
            self._on_unparsed(data)
            return
        receiver.feed(data)
        if receiver.pings or receiver.pong is not None:
            self._on_controls()
        if self._inbox:
            # What `wake` does, written out: a call less for each message.
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()
            if receiver.state == ENDED:
                self._on_end_received()

    def eof_received(self) -> None:
        """Let the transport close: a client that half-closes without a Close frame is gone (RFC 6455 §7.1.5)."""
        if self._state == OPEN and self._receiver.state != ENDED:
            self._ended_by = self._ended_by or "client"
            self._enter(closing.CLOSE_DONE)

    def pause_writing(self) -> None:
        """Make `send` wait: the transport holds more than the high-water mark."""
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        if self._pong_held is not None and self._state == OPEN:
            self._transport.write(self._pong_held)
            self._pong_held = None
        self._flow.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: tell whoever waits, and fold the counts in."""
        context, counters, receiver = self._context, self._context.counters, self._receiver
        self._state = closing.advance(self._state, closing.TCP_LOST)
        self._ended_by = self._ended_by or "client"
        self._cork.clear()
        self._flow.end()
        wake(self._waiters)
        context.remove(self)
        context.left(self._peer.client)
        counters.messages_in += receiver.messages_in
        counters.bytes_in += receiver.bytes_in
        counters.messages_out += self.messages_out
        counters.bytes_out += self.bytes_out
        if self._opening is None:
            self._report_end()

    # ---- called by the application

    async def receive(self) -> Event:
        """ASGI `receive`: the next message, or the disconnect event, again and again once it was reached."""
        if self._connect_owed:
            self._connect_owed = False
            return {"type": "websocket.connect"}
        inbox, receiver = self._inbox, self._receiver
        while True:
            if inbox and self._state >= OPEN:
                item = inbox.popleft()
                if isinstance(item, str):
                    receiver.queued -= len(item)
                    return {"type": "websocket.receive", "text": item}
                if isinstance(item, bytes):
                    receiver.queued -= len(item)
                    return {"type": "websocket.receive", "bytes": item}
                self._end_with(item)
            elif receiver.blocked and self._state in (OPEN, CLOSED) and self._opening is None:
                # The inbox was full. The other connections get a turn before the next part of it is parsed.
                self._parse_on()
                await asyncio.sleep(0)
            elif self._state <= OPEN:
                if self._cork:
                    self._flush()
                waiter = self._loop.create_future()
                self._waiters.append(waiter)
                try:  # `wait_in` written out: a call less for each message
                    await waiter
                except asyncio.CancelledError:
                    forget(self._waiters, waiter)
                    raise
            else:
                end = self._final_close()
                return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}

    async def send(self, message: Event) -> None:
        """ASGI `send`. Raises ClientDisconnected once the connection is closed, ValueError and the like for misuse."""
        if message["type"] != "websocket.send" or self._state != OPEN:
            await self._send_other(message)
            return
        data: Any = message.get("text")
        if type(data) is not str or message.get("bytes") is not None:
            data = _only_payload(message)
        encoder = self._encoder
        size = len(data)
        if data is encoder.message:
            frame = encoder.frame
        elif size >= self._short_below:
            if size >= encoder.large_from:
                await self._send_large(data)
                return
            frame = encoder.encode(data)
        elif isinstance(data, bytes):
            frame = BINARY_HEADS[size] + data
        elif data.isascii():
            frame = TEXT_HEADS[size] + data.encode()
        else:
            frame = encoder.encode(data)
        self.messages_out += 1
        self.bytes_out += len(frame)
        if self._inbox or self._cork:
            if not self._cork:
                self._loop.call_soon(self._flush)
            self._cork.append(frame)
            self._corked_bytes += len(frame)
            if self._corked_bytes > _CORK_MOST_BYTES:
                self._flush()
        else:
            self._transport.write(frame)
        if self._flow.write_paused or self._transport.is_closing() or not self.messages_out & _TURN_MASK:
            await self._settle()

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards every deadline. An idle open connection costs the first lines only."""
        state, receiver, watch = self._state, self._receiver, self._watch
        if state == OPEN:
            if second_passed and watch.quiet_ticks * self._context.deadlines.tick_s < 3:
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
            self._inbox.clear()
            self._begin_close(Close(self._context.config.shutdown_code, "service restart"), "server")
        elif self._state == CONNECTING:
            self._refuse(503, "server", [(b"retry-after", b"1")])

    def abort(self) -> None:
        """End the TCP connection now."""
        self._ended_by = self._ended_by or "server"
        self._transport.abort()

    # ---- the application's task

    async def _run(self, scope: Scope) -> None:
        error: BaseException | None = None
        try:
            await self._context.app(scope, self.receive, self.send)
        except BaseException as raised:
            error = self._context.judge(raised)
        if error is not None:
            LOG.error("application raised in websocket %s", escape(self._path), exc_info=error)
        if self._state == CONNECTING:
            if error is None and not self._context.stopping:
                LOG.error("application returned without accepting or refusing websocket %s", escape(self._path))
            self._refuse(500, "app")
        elif self._state == DENYING:
            LOG.error("application left its answer to websocket %s incomplete", escape(self._path))
            self.abort()
        elif self._state == OPEN:
            # ASGI C6 and W2: the connection does not outlive its application
            pending = self._inbox[-1] if self._receiver.state == ENDED else None
            if error is None and isinstance(pending, Close | Violation):
                self._end_with(pending)
            else:
                self._begin_close(Close(1011, "internal error") if error is not None else Close(1000, ""), "app")

    async def _send_other(self, message: Event) -> None:
        """Everything but a message on an open connection."""
        kind = message["type"]
        if self._state >= CLOSING:
            raise ClientDisconnected(f"{kind} after the websocket was closed ({self._final_close().code})")
        if self._state == OPEN:
            if kind != "websocket.close":
                raise RuntimeError(f"{kind} on an open websocket, allowed: websocket.send, websocket.close")
            code, reason = message.get("code"), message.get("reason")
            self._begin_close(closing.check_close(1000 if code is None else code, reason or ""), "app")
        elif self._state == DENYING:
            if kind != "websocket.http.response.body":
                raise RuntimeError(f"{kind} in an HTTP response, allowed: websocket.http.response.body")
            await self._send_denial(message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._refuse(403, "app")
        elif kind == "websocket.http.response.start":
            cast("Opening", self._opening).begin_denial(message)
            self._state = closing.advance(self._state, closing.DENY_BEGAN)
        else:
            raise RuntimeError(
                f"{kind} before the websocket is open, allowed: websocket.accept, websocket.close, "
                "websocket.http.response.start"
            )

    async def _send_large(self, data: str | bytes) -> None:
        """Compress off the loop, then send."""
        encoder = self._encoder
        frame = await self._loop.run_in_executor(None, encoder.encode_alone, data)
        if self._state != OPEN:
            raise ClientDisconnected(f"websocket closed while sending ({self._final_close().code})")
        encoder.remember(data, frame)
        self.messages_out += 1
        self.bytes_out += len(frame)
        self._flush()
        self._transport.write(frame)
        await self._settle()

    async def _settle(self) -> None:
        """Wait while the transport is full, else let the loop turn. Raises ClientDisconnected when that ended it all.

        An application that sends without a pause to a client that keeps up would otherwise never let the loop turn:
        nobody else were served, and it would never learn that this client has gone.
        """
        if self._flow.write_paused:
            await self._flow.wait_writable()
        else:
            await asyncio.sleep(0)
        if self._state >= CLOSING:
            raise ClientDisconnected(f"websocket closed while sending ({self._final_close().code})")

    # ---- the opening

    def _accept(self, message: Event) -> None:
        """Complete the handshake (RFC 6455 §4.2.2) and open the connection."""
        context = self._context
        response, agreement, subprotocol = cast("Opening", self._opening).accept(message)
        self._opening = None
        self._state = closing.advance(self._state, closing.ACCEPTED)
        compression = "off"
        if agreement is not None:
            self._encoder = context.encoder(agreement)
            self._short_below = min(126, context.deflate_settings.min_size_bytes)
            self._receiver.begin(KEPT_WINDOW if agreement.client_takeover else FRESH_WINDOW)
            compression = context.deflate_settings.mode
        self._transport.write(response)
        context.counters.websockets_accepted += 1
        if context.config.access_log:
            log_websocket_open(self._peer.client, self._path, subprotocol, compression)
        if self._receiver.blocked:
            self._parse_on()

    def _refuse(self, status: int, by: str, fields: list[Header] | None = None) -> None:
        """Answer the handshake with an HTTP error instead (ASGI W5, W10)."""
        self._transport.write(cast("Opening", self._opening).refuse(status, fields or []))
        self._on_denied(by)

    async def _send_denial(self, message: Event) -> None:
        opening = cast("Opening", self._opening)
        self._transport.write(opening.denial_body(message))
        if opening.denied:
            self._on_denied("app")
        elif self._flow.write_paused:
            await self._flow.wait_writable()
            if self._state != DENYING:
                raise ClientDisconnected("client left while its handshake was answered")

    def _on_denied(self, by: str) -> None:
        self._ended_by = by
        self._context.counters.websockets_refused += 1
        if self._context.config.access_log:
            log_websocket_refused(self._peer.client, self._path, cast("Opening", self._opening).status)
        self._linger(closing.REFUSED, discard=self._receiver.blocked)

    # ---- in

    def _on_unparsed(self, data: bytes) -> None:
        """Take bytes that are not parsed now: before the accept, behind a full inbox, or after the end."""
        receiver = self._receiver
        if self._state == CLOSING:
            receiver.feed(data)
            self._look_for_close()
        elif self._state <= OPEN:
            receiver.hold(data)
            # Two reads at most: the one that filled the inbox, and the one that had begun.
            if self._state == OPEN or receiver.held_bytes > _EARLY_MOST_BYTES:
                self._flow.pause_reading()

    def _parse_on(self) -> None:
        """Parse what was held, and read on when that was all."""
        receiver = self._receiver
        receiver.resume()
        if not receiver.blocked and self._flow.reading_paused:
            self._watch.quiet_ticks = 0
            self._flow.resume_reading()
        if receiver.pings or receiver.pong is not None:
            self._on_controls()
        if self._inbox:
            wake(self._waiters)
            if receiver.state == ENDED:
                self._on_end_received()

    def _on_controls(self) -> None:
        """Answer pings, each with its payload (RFC 6455 §5.5.2), and measure a pong."""
        receiver = self._receiver
        pings = receiver.pings
        if pings and self._state == OPEN:
            if self._flow.write_paused:
                # §5.5.3: only the most recent ping needs an answer, so a client that does not read costs one.
                self._pong_held = encode_frame(FIN | PONG, pings[-1])
            else:
                self._transport.write(b"".join([encode_frame(FIN | PONG, payload) for payload in pings]))
        pings.clear()
        if receiver.pong is not None and self._ping_sent_s:
            self.round_trip_s = time.monotonic() - self._ping_sent_s
            self._ping_sent_s = 0.0
        receiver.pong = None

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
            self._context.reject(item, self._peer.client)
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
                receiver.resume()
            else:
                return

    # ---- out

    def _flush(self) -> None:
        if self._cork:
            data = self._cork[0] if len(self._cork) == 1 else b"".join(self._cork)
            self._cork.clear()
            self._corked_bytes = 0
            self._transport.write(data)

    def _write_close(self, close: Close) -> None:
        self._flush()
        self._transport.write(closing.encode_close(close))

    def _begin_close(self, close: Close, by: str) -> None:
        """Send our Close, and await the peer's unless it is there already (RFC 6455 §7.1.2)."""
        if self._end is None:
            self._end, self._ended_by = close, by
        self._write_close(close)
        self._enter(closing.CLOSE_SENT)
        self._flow.resume_reading()
        self._look_for_close()

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
            self._context.counters.keepalive_timeouts += 1
            self._begin_close(Close(1011, "keepalive ping timeout"), "server")
            # The loop turns once, so that the Close can leave, and then the connection is gone.
            self._loop.call_soon(self._transport.abort)
        elif due == ANSWER_LATE:
            self._end_with(cast("Close | Violation", self._inbox.pop()))
        elif due == IDLE_TOO_LONG:
            self._begin_close(Close(1001, "idle timeout"), "server")
        elif due == LIFETIME_OVER:
            self._begin_close(Close(1001, "maximum lifetime"), "server")
        elif due == OPENING_LATE:
            fault = Violation(errors.HANDSHAKE_TIMEOUT, "application did not answer the handshake in time")
            self._context.reject(fault, self._peer.client)
            self._refuse(fault.rule.code, "server")
        else:
            if self._state <= OPEN:
                self._end = self._end or Close(1006, "slow consumer")
                self._context.on_slow_consumer(self._peer.client)
            self.abort()

    # ---- what is known

    def _final_close(self) -> Close:
        """What the disconnect event says; a connection that ended without a cause of its own was lost."""
        if self._end is None:
            self._end = _ABNORMAL
        return self._end

    def _report_end(self) -> None:
        """Count and log the end; the application may still be on its way to it through the inbox."""
        context, receiver = self._context, self._receiver
        end = self._end or _ABNORMAL
        if self._end is None and self._inbox and isinstance(self._inbox[-1], Close):
            end = self._inbox[-1]
        context.counters.closes[self._ended_by, end.code] += 1
        if context.config.access_log:
            log_websocket_end(
                self._peer.client, self._path, code=end.code, reason=end.reason, ended_by=self._ended_by,
                rule=self._rule, seconds=time.monotonic() - self._began_s, messages_in=receiver.messages_in,
                bytes_in=receiver.bytes_in, messages_out=self.messages_out, bytes_out=self.bytes_out,
                round_trip_s=self.round_trip_s,
            )  # fmt: skip


def _only_payload(message: Event) -> str | bytes:
    """Give the one payload of `websocket.send` (ASGI W7). Raises ValueError or TypeError."""
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        raise ValueError("websocket.send: text and bytes, allowed: exactly one that is not None")
    if isinstance(text, str):
        return text
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"websocket.send: {type(text or data).__name__}, allowed: text as str, bytes as bytes")
