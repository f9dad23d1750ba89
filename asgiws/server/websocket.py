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
import random
import time
from collections import deque
from typing import Any, Final, cast

from asgiws.protocol import closing, errors
from asgiws.protocol.closing import CLOSED, CLOSING, CONNECTING, DENYING, LINGERING, OPEN, REQUESTED, Close
from asgiws.protocol.deflate import negotiate
from asgiws.protocol.encoder import Encoder
from asgiws.protocol.errors import Violation
from asgiws.protocol.frames import BINARY_HEADS, FIN, PING, PONG, TEXT_HEADS, encode_frame
from asgiws.protocol.handshake import Handshake, encode_accept
from asgiws.protocol.keepalive import DEAD, PING_NOW
from asgiws.protocol.receiver import ENDED, FRESH_WINDOW, KEPT_WINDOW, Item, Receiver
from asgiws.protocol.response import DONE, Response
from asgiws.server.context import ClientDisconnected, Context, Event, Scope, format_address
from asgiws.server.scope import Peer
from asgiws.telemetry.logs import ACCESS, LOG, escape

__all__ = ["WebSocketConnection"]

_CORK_MOST_BYTES: Final = 64 * 1024
_EARLY_MOST_BYTES: Final = 64 * 1024
_ABNORMAL: Final = Close(1006, "")


class WebSocketConnection(asyncio.Protocol):
    """A connection from the handshake request to the end of its TCP connection."""

    __slots__ = (
        "_answer_ticks", "_began_s", "_context", "_cork", "_corked_bytes", "_drains", "_encoder", "_end", "_ended_by",
        "_handshake", "_idle_count", "_idle_ticks", "_inbox", "_lifetime_ticks", "_loop", "_path", "_peer",
        "_ping_sent_s", "_pong_held", "_reading_paused", "_receiver", "_response", "_rule", "_scope", "_short_below",
        "_state", "_state_ticks", "_stuck_bytes", "_stuck_ticks", "_transport", "_waiters", "_write_paused",
        "bytes_out", "messages_out", "quiet_ticks", "round_trip_s",
    )  # fmt: skip

    def __init__(
        self, context: Context, transport: asyncio.Transport, peer: Peer, scope: Scope, handshake: Handshake
    ) -> None:
        self._context = context
        self._loop = context.loop
        self._transport = transport
        self._peer = peer
        self._scope: Scope | None = scope
        self._handshake: Handshake | None = handshake
        self._path = scope["path"]
        self._state = REQUESTED
        self._state_ticks = 0
        """Ticks spent in a state that has a deadline: until accepted, and from the Close on."""
        self._inbox: deque[Item] = deque()
        self._receiver = Receiver(context.limits, self._inbox)
        self._waiters: list[asyncio.Future[None]] = []
        """`receive` calls that sleep; more than one only when several tasks receive."""
        self._reading_paused = False
        self._answer_ticks = 0
        """Ticks left for a busy application until a pending end takes effect; 0 when none is pending."""
        self._end: Close | None = None
        """What the disconnect event says; set once, by the first cause."""
        self._ended_by = ""
        self._rule = ""
        self._encoder: Encoder = context.encoder(None)
        self._short_below = 126
        """Messages of fewer characters than this are framed in `send`, without the encoder."""
        self._cork: list[bytes] = []
        self._corked_bytes = 0
        self._write_paused = False
        self._drains: list[asyncio.Future[None]] = []
        self._stuck_bytes = 0
        self._stuck_ticks = 0
        self._pong_held: bytes | None = None
        """The newest pong that could not be written while writing was paused; an older one is replaced."""
        self._response: Response | None = None
        self.quiet_ticks = 0
        """Ticks since the last byte came, or since reading went on."""
        self._idle_ticks = 0
        self._idle_count = 0
        self._lifetime_ticks = int(context.deadlines.lifetime * (1 - 0.1 * random.random()))  # noqa: S311 - a spread
        self._ping_sent_s = 0.0
        self.round_trip_s = 0.0
        """Of the last ping that was answered; 0 before that."""
        self.messages_out = 0
        self.bytes_out = 0
        self._began_s = time.monotonic()

    def begin(self, rest: bytes) -> None:
        """Start the application; `rest` is what came behind the handshake in the same packets."""
        context = self._context
        context.connections.add(self)
        if rest:
            self._receiver.hold(rest)
        if self._transport.get_write_buffer_size() > context.config.write_high_water:
            self.pause_writing()
        context.start(self._run())

    # ---- called by the transport

    def data_received(self, data: bytes) -> None:
        """Parse what came; wake the application when a message is there."""
        self.quiet_ticks = 0
        receiver = self._receiver
        if self._state != OPEN or receiver.blocked:
            self._on_unparsed(data)
            return
        receiver.feed(data)
        if receiver.pings or receiver.pong is not None:
            self._on_controls()
        if self._inbox:
            if self._waiters:
                self._wake()
            if receiver.state == ENDED:
                self._on_end_received()

    def eof_received(self) -> None:
        """Let the transport close: a client that half-closes without a Close frame is gone (RFC 6455 §7.1.5)."""

    def pause_writing(self) -> None:
        """Make `send` wait: the transport holds more than the high-water mark."""
        self._write_paused = True
        self._stuck_ticks = 0
        self._stuck_bytes = self._transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        self._write_paused = False
        if self._pong_held is not None and self._state == OPEN:
            self._transport.write(self._pong_held)
            self._pong_held = None
        self._release_senders()

    def connection_lost(self, exc: Exception | None) -> None:
        """End: tell whoever waits, and fold the counts in."""
        context = self._context
        accepted = self._state >= OPEN and self._response is None
        self._state = closing.advance(self._state, closing.TCP_LOST)
        self._ended_by = self._ended_by or "client"
        self._cork.clear()
        self._write_paused = self._reading_paused = False
        context.remove(self)
        context.left(self._peer.client)
        self._wake()
        self._release_senders()
        counters, receiver = context.counters, self._receiver
        counters.messages_in += receiver.messages_in
        counters.bytes_in += receiver.bytes_in
        counters.messages_out += self.messages_out
        counters.bytes_out += self.bytes_out
        if accepted:
            end = self._end or (self._inbox[-1] if self._inbox and receiver.state == ENDED else _ABNORMAL)
            code, reason = (end.rule.code, end.reason) if isinstance(end, Violation) else cast("Close", end)
            counters.closes[self._ended_by, code] += 1
            self._log_end(code, reason)

    # ---- called by the application

    async def receive(self) -> Event:
        """ASGI `receive`: the next message, or the disconnect event, again and again once it was reached."""
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
            elif self._state == OPEN:
                if receiver.blocked:
                    # The inbox was full. The other connections get a turn before the next part of it is parsed.
                    self._parse_on()
                    await asyncio.sleep(0)
                    continue
                if self._cork:
                    self._flush()
                waiter = self._loop.create_future()
                self._waiters.append(waiter)
                await waiter
            elif self._state == REQUESTED:
                self._state = closing.advance(REQUESTED, closing.ASKED)
                return {"type": "websocket.connect"}
            elif self._state in (CONNECTING, DENYING):
                waiter = self._loop.create_future()
                self._waiters.append(waiter)
                await waiter
            elif self._state == CLOSED and receiver.blocked and self._end is None:
                self._parse_on()
            else:
                end = self._final_close()
                return {"type": "websocket.disconnect", "code": end.code, "reason": end.reason}

    async def send(self, message: Event) -> None:
        """ASGI `send`. Raises ClientDisconnected once the connection is closed, ValueError and the like for misuse."""
        if message["type"] != "websocket.send" or self._state != OPEN:
            await self._send_other(message)
            return
        data: str | bytes | None = message.get("text")
        if type(data) is not str or message.get("bytes") is not None:
            data = _only_payload(message)
        encoder = self._encoder
        size = len(data)
        if data is encoder.message:
            frame = encoder.frame
        elif size >= self._short_below:
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
        if self._write_paused:
            await self._wait_writable()

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards every deadline. An idle open connection costs the first lines only."""
        self.quiet_ticks = quiet = self.quiet_ticks + 1
        deadlines = self._context.deadlines
        if self._state != OPEN:
            self._tick_not_open()
            return
        receiver = self._receiver
        if receiver.blocked:
            # We do not read, so silence is ours and not the peer's.
            self.quiet_ticks = 0
        elif deadlines.keepalive.interval_ticks and quiet >= deadlines.keepalive.interval_ticks:
            due = deadlines.keepalive.due(quiet)
            if due == PING_NOW:
                self._ping_sent_s = time.monotonic()
                self._transport.write(encode_frame(FIN | PING, b"asgiws"))
            elif due == DEAD:
                self._on_keepalive_timeout()
                return
        if second_passed and quiet * deadlines.tick_s < 3:
            receiver.allow_another_second()
        if self._write_paused and deadlines.write:
            self._tick_stuck()
        if self._answer_ticks:
            self._answer_ticks -= 1
            if not self._answer_ticks and self._inbox:
                self._end_with(cast("Close | Violation", self._inbox.pop()))
        if deadlines.idle or self._lifetime_ticks:
            self._tick_age()

    def begin_shutdown(self) -> None:
        """Say goodbye: the server stops."""
        if self._state == OPEN:
            self._inbox.clear()
            self._begin_close(Close(self._context.config.shutdown_code, "service restart"), "server")
        elif self._state in (REQUESTED, CONNECTING):
            self._refuse(503, "server", retry=True)

    def abort(self) -> None:
        """End the TCP connection now."""
        self._ended_by = self._ended_by or "server"
        self._transport.abort()

    # ---- the application's task

    async def _run(self) -> None:
        scope, self._scope = self._scope, None
        assert scope is not None
        try:
            await self._context.app(scope, self.receive, self.send)
        except ClientDisconnected:
            self._on_app_end(None)
        except asyncio.CancelledError as error:
            self._on_app_end(None if self._context.stopping else error)
        except BaseException as error:
            self._on_app_end(error)
        else:
            self._on_app_end(None)

    def _on_app_end(self, error: BaseException | None) -> None:
        """End the connection that the application left (ASGI C6, W2)."""
        if error is not None:
            self._context.counters.app_errors += 1
            LOG.error(
                "%s application raised in websocket %s", format_address(self._peer.client), escape(self._path),
                exc_info=error,
            )  # fmt: skip
        if self._state in (REQUESTED, CONNECTING):
            if error is None and not self._context.stopping:
                LOG.error("application returned without accepting or refusing websocket %s", escape(self._path))
            self._refuse(500, "app")
        elif self._state == DENYING:
            LOG.error("application left its answer to websocket %s incomplete", escape(self._path))
            self.abort()
        elif self._state == OPEN:
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
            reason = message.get("reason")
            close = closing.check_close(message.get("code", 1000), "" if reason is None else reason)
            self._begin_close(close, "app")
        elif self._state == DENYING:
            if kind != "websocket.http.response.body":
                raise RuntimeError(f"{kind} in an HTTP response, allowed: websocket.http.response.body")
            await self._send_denial_body(message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            self._refuse(403, "app")
        elif kind == "websocket.http.response.start":
            response = Response(head_only=False, http_1_0=False, keep_alive=False)
            response.start(message["status"], message.get("headers", ()), self._context.default_fields, trailers=False)
            self._response = response
            self._state = closing.advance(self._state, closing.DENY_BEGAN)
        else:
            raise RuntimeError(
                f"{kind} before the websocket is open, allowed: websocket.accept, websocket.close, "
                "websocket.http.response.start"
            )

    def _accept(self, message: Event) -> None:
        """Complete the handshake (RFC 6455 §4.2.2) and open the connection."""
        handshake, context = self._handshake, self._context
        assert handshake is not None
        subprotocol = message.get("subprotocol")
        agreement = negotiate(handshake.extensions, context.deflate_settings)
        response = encode_accept(
            handshake,
            subprotocol,
            None if agreement is None else agreement.response,
            message.get("headers") or (),
            context.default_fields,
        )
        self._handshake = None
        self._state = closing.advance(self._state, closing.ACCEPTED)
        if agreement is not None:
            self._encoder = context.encoder(agreement)
            self._short_below = min(126, context.deflate_settings.min_size_bytes)
            self._receiver.begin(KEPT_WINDOW if agreement.client_takeover else FRESH_WINDOW)
        self._transport.write(response)
        context.counters.websockets_accepted += 1
        if context.config.access_log:
            ACCESS.info(
                '%s "WebSocket %s" open subprotocol=%s compression=%s', format_address(self._peer.client),
                escape(self._path), escape(subprotocol or "-"),
                context.deflate_settings.mode if agreement is not None else "off",
            )  # fmt: skip
        if self._receiver.blocked:
            self._parse_on()

    def _refuse(self, status: int, by: str, *, retry: bool = False) -> None:
        """Answer the handshake with an HTTP error instead (ASGI W5, W10)."""
        response = Response(head_only=False, http_1_0=False, keep_alive=False)
        headers: list[tuple[bytes, bytes]] = [(b"content-length", b"0")]
        if retry:
            headers.append((b"retry-after", b"1"))
        response.start(status, headers, self._context.default_fields, trailers=False)
        self._response = response
        self._transport.write(response.body(b"", more=False))
        self._finish_denial(status, by)

    async def _send_denial_body(self, message: Event) -> None:
        response = self._response
        assert response is not None
        body, more = message.get("body", b""), bool(message.get("more_body", False))
        if not isinstance(body, bytes):
            raise TypeError(f"websocket.http.response.body: body is {type(body).__name__}, allowed: bytes")
        self._transport.write(response.body(body, more))
        if response.state == DONE:
            self._finish_denial(response.status, "app")
        if self._write_paused:
            await self._wait_writable()

    def _finish_denial(self, status: int, by: str) -> None:
        self._ended_by = by
        self._end = self._end or _ABNORMAL
        self._context.counters.websockets_refused += 1
        if self._context.config.access_log:
            ACCESS.info('%s "WebSocket %s" refused %d', format_address(self._peer.client), escape(self._path), status)
        self._enter_lingering(closing.REFUSED, discard=self._receiver.blocked)

    # ---- in

    def _on_unparsed(self, data: bytes) -> None:
        """Take bytes that are not parsed now: before the accept, behind a full inbox, or after the end."""
        receiver = self._receiver
        if self._state == LINGERING:
            return
        if self._state == CLOSING:
            receiver.feed(data)
            self._look_for_close()
            return
        receiver.hold(data)
        # Two reads at most: the one that filled the inbox, and the one that had begun.
        if not self._reading_paused and (self._state == OPEN or receiver.held_bytes > _EARLY_MOST_BYTES):
            self._reading_paused = True
            self._transport.pause_reading()

    def _parse_on(self) -> None:
        """Parse what was held, and read on when that was all."""
        receiver = self._receiver
        receiver.resume()
        if not receiver.blocked and self._reading_paused:
            self._reading_paused = False
            self.quiet_ticks = 0
            self._transport.resume_reading()
        if receiver.pings or receiver.pong is not None:
            self._on_controls()
        if self._inbox and receiver.state == ENDED:
            self._on_end_received()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _on_controls(self) -> None:
        """Answer pings, each with its payload (RFC 6455 §5.5.2), and measure a pong."""
        receiver = self._receiver
        pings = receiver.pings
        if pings:
            if self._state == OPEN:
                if self._write_paused:
                    # §5.5.3: only the most recent ping needs an answer, so a client that does not read costs one.
                    self._pong_held = encode_frame(FIN | PONG, pings[-1])
                else:
                    self._transport.write(b"".join([encode_frame(FIN | PONG, payload) for payload in pings]))
            pings.clear()
        if receiver.pong is not None:
            if self._ping_sent_s:
                self.round_trip_s = time.monotonic() - self._ping_sent_s
                self._ping_sent_s = 0.0
            receiver.pong = None

    def _on_end_received(self) -> None:
        """Decide when the Close or violation at the end of the inbox takes effect."""
        item = self._inbox[-1]
        if len(self._inbox) == 1 and isinstance(item, Close):
            self._inbox.clear()
            self._end_with(item)
        elif not self._answer_ticks:
            self._answer_ticks = self._context.deadlines.answer

    def _end_with(self, item: Close | Violation) -> None:
        """Let the peer's Close or violation take effect."""
        if isinstance(item, Close):
            if self._end is None:
                self._end, self._ended_by = item, "client"
            if self._state == OPEN:
                # §5.5.1: the Close sent in answer typically echoes the status code received
                self._write_close(Close(item.code, ""))
                self._enter_lingering(closing.CLOSE_DONE)
            return
        self._context.reject(item, self._peer.client)
        self._rule = item.rule.name
        if self._end is None:
            self._end, self._ended_by = Close(item.rule.code, item.reason), "server"
        if self._state == OPEN:
            self._write_close(self._end)
            self._enter_lingering(closing.CLOSE_DONE, discard=True)

    def _look_for_close(self) -> None:
        """Read on only for the peer's Close, which ends the closing handshake."""
        receiver, inbox = self._receiver, self._inbox
        while self._state == CLOSING:
            last = inbox[-1] if inbox else None
            inbox.clear()
            receiver.queued = 0
            receiver.pings.clear()
            if isinstance(last, Close | Violation):
                self._enter_lingering(closing.CLOSE_DONE, discard=isinstance(last, Violation))
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

    async def _wait_writable(self) -> None:
        """Wait until the transport has sent enough. Raises ClientDisconnected when the connection ends meanwhile."""
        waiter = self._loop.create_future()
        self._drains.append(waiter)
        await waiter
        if self._state >= CLOSING and self._response is None:
            raise ClientDisconnected(f"websocket closed while sending ({self._final_close().code})")

    def _release_senders(self) -> None:
        for waiter in self._drains:
            if not waiter.done():
                waiter.set_result(None)
        self._drains.clear()

    def _write_close(self, close: Close) -> None:
        self._flush()
        self._transport.write(closing.encode_close(close))

    def _begin_close(self, close: Close, by: str) -> None:
        """Send our Close, and await the peer's unless it is there already (RFC 6455 §7.1.2)."""
        if self._end is None:
            self._end, self._ended_by = close, by
        self._write_close(close)
        self._state = closing.advance(self._state, closing.CLOSE_SENT)
        self._state_ticks = self._answer_ticks = 0
        self._wake()
        self._release_senders()
        if self._reading_paused:
            self._reading_paused = False
            self._transport.resume_reading()
        self._look_for_close()

    def _enter_lingering(self, event: int, *, discard: bool = False) -> None:
        """Close the TCP connection once everything written has left.

        With `discard`, the peer may still be sending: closing now would reset the connection and destroy the Close on
        its way (RFC 9112 §9.6 describes the same for HTTP). So only our side is closed, and what comes is thrown away
        until the peer closes or `close_timeout` has passed.
        """
        self._state = closing.advance(self._state, event)
        self._state_ticks = self._answer_ticks = 0
        self._wake()
        self._release_senders()
        if discard and self._transport.can_write_eof():
            self._transport.write_eof()
            if self._reading_paused:
                self._reading_paused = False
                self._transport.resume_reading()
        else:
            self._transport.close()

    # ---- deadlines

    def _tick_not_open(self) -> None:
        deadlines = self._context.deadlines
        self._state_ticks += 1
        if self._state in (REQUESTED, CONNECTING):
            if deadlines.handshake and self._state_ticks >= deadlines.handshake:
                self._context.reject(
                    Violation(errors.HANDSHAKE_TIMEOUT, "application did not answer the handshake in time"),
                    self._peer.client,
                )
                self._refuse(503, "server")
                self._wake()
        elif self._state == DENYING:
            if self._write_paused and deadlines.write:
                self._tick_stuck()
        else:
            # What was written before may still be on its way to a slow client.
            waiting = self._transport.get_write_buffer_size()
            if waiting < self._stuck_bytes:
                self._state_ticks = 0
            self._stuck_bytes = waiting
            if self._state_ticks >= deadlines.close:
                self.abort()

    def _tick_stuck(self) -> None:
        """Drop a client that does not read: nothing has left for `write_timeout`."""
        waiting = self._transport.get_write_buffer_size()
        self._stuck_ticks = 0 if waiting < self._stuck_bytes else self._stuck_ticks + 1
        self._stuck_bytes = waiting
        if self._stuck_ticks >= self._context.deadlines.write:
            self._end = self._end or Close(1006, "slow consumer")
            self._context.counters.slow_consumers += 1
            self._context.log.info(
                "%s slow consumer dropped: %d bytes waited for %g s", format_address(self._peer.client), waiting,
                self._context.config.write_timeout,
            )  # fmt: skip
            self.abort()

    def _on_keepalive_timeout(self) -> None:
        self._context.counters.keepalive_timeouts += 1
        self._begin_close(Close(1011, "keepalive ping timeout"), "server")
        # The loop turns once, so that the Close can leave, and then the connection is gone.
        self._loop.call_soon(self._transport.abort)

    def _tick_age(self) -> None:
        """Close a connection that is idle, or older than its lifetime."""
        count = self._receiver.messages_in + self.messages_out
        self._idle_ticks = self._idle_ticks + 1 if count == self._idle_count else 0
        self._idle_count = count
        deadlines = self._context.deadlines
        if deadlines.idle and self._idle_ticks >= deadlines.idle:
            self._begin_close(Close(1001, "idle timeout"), "server")
        elif self._lifetime_ticks:
            self._lifetime_ticks -= 1
            if not self._lifetime_ticks:
                self._begin_close(Close(1001, "maximum lifetime"), "server")

    # ---- what is known

    def _final_close(self) -> Close:
        """What the disconnect event says; a connection that ended without a cause of its own was lost."""
        if self._end is None:
            self._end = _ABNORMAL
        return self._end

    def _log_end(self, code: int, reason: str) -> None:
        if not self._context.config.access_log:
            return
        receiver = self._receiver
        ACCESS.info(
            '%s "WebSocket %s" closed %d by %s%s after %.3fs, in %d messages %d bytes, out %d messages %d bytes%s%s',
            format_address(self._peer.client), escape(self._path), code, self._ended_by,
            f' "{escape(reason)}"' if reason else "", time.monotonic() - self._began_s, receiver.messages_in,
            receiver.bytes_in, self.messages_out, self.bytes_out,
            f", round trip {self.round_trip_s * 1000:.1f}ms" if self.round_trip_s else "",
            f", {self._rule}" if self._rule else "",
        )  # fmt: skip


def _only_payload(message: Event) -> str | bytes:
    """Give the one payload of `websocket.send` (ASGI W7). Raises ValueError or TypeError."""
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        raise ValueError("websocket.send: text and bytes, allowed: exactly one that is not None")
    payload: Any = text if data is None else data
    if isinstance(payload, bytearray | memoryview) and data is not None:
        payload = bytes(payload)
    if not isinstance(payload, str if data is None else bytes):
        raise TypeError(f"websocket.send: {type(payload).__name__}, allowed: text as str, bytes as bytes")
    return payload
