"""One WebSocket connection: the frames of a client and the `receive` and `send` of an application.

Takes over from the HTTP connection once a handshake was read (`transport.set_protocol`), with the parsed head and the
bytes behind it. From then on the transport calls this object, and the application's task calls this object; between
the two there is one deque, the inbox, and no queue, event or timer.

In: `data_received` -> `Receiver.feed` -> inbox -> `receive`. Reading stops while the inbox is full and more has come.
Out: `send` -> frame -> the transport, at once when the inbox is empty. While more messages wait to be answered, frames
are held back and leave together (the cork): before `receive` goes to sleep, at 64 KiB, or when the loop turns.

How it ends is the other half, `asgiws.server.connection.closing_handshake`.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final, cast

from asgiws.protocol.websocket import closing
from asgiws.protocol.websocket.closing import CLOSED, CLOSING, CONNECTING, DENYING, LINGERING, OPEN, Close
from asgiws.protocol.websocket.frames import BINARY_HEADS, FIN, PONG, TEXT_HEADS, encode_frame
from asgiws.protocol.websocket.handshake import Handshake
from asgiws.protocol.websocket.receiver import ENDED, FRESH_WINDOW, KEPT_WINDOW
from asgiws.server.asgi import ClientDisconnected, Event, Scope
from asgiws.server.connection.closing_handshake import Ending
from asgiws.server.connection.flow_control import FlowControl, forget, turn_now_and_then, wake
from asgiws.server.connection.handshake_response import Opening
from asgiws.server.scope import Peer
from asgiws.server.state.worker_state import WorkerState
from asgiws.telemetry.access_log import log_websocket_open

__all__ = ["WebSocketConnection"]

_CORK_MOST_BYTES: Final = 64 * 1024
_EARLY_MOST_BYTES: Final = 64 * 1024
# Every 128th message of a connection lets the loop turn.
_TURN_MASK: Final = 127


class WebSocketConnection(Ending):
    """A connection from the handshake request to the end of its TCP connection."""

    __slots__ = ("_connect_owed", "_pong_held", "_repeats", "_short_below")

    def __init__(
        self,
        worker: WorkerState,
        transport: asyncio.Transport,
        flow: FlowControl,
        peer: Peer,
        path: bytes,
        handshake: Handshake,
    ) -> None:
        super().__init__(worker, transport, flow, peer, path, handshake)
        self._connect_owed = True
        """Whether `websocket.connect` is still to be given, the first event whatever happens (ASGI W4)."""
        self._short_below = 126
        """Messages of fewer characters than this are framed in `send`, without the encoder."""
        self._repeats = 0
        """How often `receive` has given the disconnect event."""
        self._pong_held: bytes | None = None
        """The newest pong that could not be written while writing was paused; an older one is replaced."""

    def begin(self, scope: Scope, rest: bytes) -> None:
        """Start the application; `rest` is what came behind the handshake in the same packets."""
        self._worker.registry.connections.add(self)
        if rest:
            self._receiver.hold(rest)
        self._worker.registry.start(self._run(scope))

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

    def pause_writing(self) -> None:
        """Make `send` wait: the transport holds more than the high-water mark."""
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        """Let `send` go on."""
        if self._pong_held is not None and self._state == OPEN:
            self._transport.write(self._pong_held)
            self._pong_held = None
        self._flow.resume_writing()

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
            elif receiver.blocked and self._state in (OPEN, LINGERING, CLOSED) and self._opening is None:
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
                self._repeats += 1
                await turn_now_and_then(self._repeats)
                self._end = end = self._final_close()
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

    # ---- the application's task

    async def _run(self, scope: Scope) -> None:
        error: BaseException | None = None
        try:
            await self._worker.app(scope, self.receive, self.send)
        except BaseException as raised:
            error = self._worker.incidents.judge(raised)
        if error is not None:
            self._worker.incidents.report_fault("raised in websocket", self._path, error)
        if self._state == CONNECTING:
            if error is None and not self._worker.registry.stopping:
                self._worker.incidents.report_fault("returned without accepting or refusing websocket", self._path)
            self._refuse(500, "app")
        elif self._state == DENYING:
            if error is None and not self._worker.registry.stopping:
                self._worker.incidents.report_fault("left its answer incomplete to websocket", self._path)
            self.abort()
        elif self._state == OPEN:
            # ASGI C6 and W2: the connection does not outlive its application
            self._begin_close(Close(1011, "internal error") if error is not None else Close(1000, ""), "app")
        elif self._state == CLOSED:
            # What was parsed after the connection had gone
            self._worker.counters.messages_in += self._receiver.messages_in
        self._worker.registry.on_application_end()

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
        """Send what is compressed off the loop, or need not be copied."""
        encoder = self._encoder
        parts: tuple[bytes, ...]
        if encoder.compresses:
            frame = await self._loop.run_in_executor(None, encoder.encode_alone, data)
            if self._state != OPEN:
                raise ClientDisconnected(f"websocket closed while sending ({self._final_close().code})")
            encoder.remember(data, frame)
            parts = (frame,)
        else:
            parts = encoder.encode_parts(data)
        self.messages_out += 1
        self.bytes_out += sum(map(len, parts))
        self._flush()
        for part in parts:  # not `writelines`, which in some Pythons does not pause writing
            self._transport.write(part)
        if self._flow.write_paused or self._transport.is_closing() or not self.messages_out & _TURN_MASK:
            await self._settle()

    async def _settle(self) -> None:
        """Wait while the transport is full, else let the loop turn. Raises ClientDisconnected for what did not leave.

        An application that sends without a pause to a client that keeps up would otherwise never let the loop turn:
        nobody else were served, and it would never learn that this client has gone.
        """
        if self._flow.write_paused:
            await self._flow.wait_writable()
        else:
            ending = self._transport.is_closing()
            await asyncio.sleep(0)
            if not ending:
                return  # it has left, and a Close that came meanwhile is for `receive` to tell
        if self._state >= CLOSING:
            raise ClientDisconnected(f"websocket closed while sending ({self._final_close().code})")

    # ---- the opening

    def _accept(self, message: Event) -> None:
        """Complete the handshake (RFC 6455 §4.2.2) and open the connection."""
        worker = self._worker
        assert self._opening is not None
        response, agreement, self._subprotocol = self._opening.accept(message)
        self._opening = None
        self._state = closing.advance(self._state, closing.ACCEPTED)
        if agreement is not None:
            self._encoder = worker.encoders.encoder_for(agreement)
            self._short_below = min(126, worker.deflate_settings.min_size_bytes)
            self._receiver.begin(KEPT_WINDOW if agreement.client_takeover else FRESH_WINDOW)
            self._compression = worker.deflate_settings.mode
        self._transport.write(response)
        worker.counters.websockets_accepted += 1
        if worker.config.access_log:
            log_websocket_open(self._peer.client, self._path, self._subprotocol, self._compression)
        if self._receiver.blocked:
            self._parse_on()
        if worker.registry.stopping:
            self.begin_shutdown()

    async def _send_denial(self, message: Event) -> None:
        opening = cast("Opening", self._opening)
        self._transport.write(opening.denial_body(message))
        if opening.denied:
            self._on_denied("app")
            return
        if self._flow.write_paused:
            await self._flow.wait_writable()
        else:
            await asyncio.sleep(0)  # so that an answer without an end does not keep the loop from turning
        if self._state != DENYING:
            raise ClientDisconnected("client left while its handshake was answered")

    # ---- in

    def _on_unparsed(self, data: bytes) -> None:
        """Take bytes that are not parsed now: before the accept, behind a full inbox, or after the end."""
        receiver = self._receiver
        if self._state == CLOSING:
            if receiver.blocked:
                receiver.hold(data)
            else:
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
            self._worker.counters.round_trips.add(self.round_trip_s)
            self._ping_sent_s = 0.0
        receiver.pong = None


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
