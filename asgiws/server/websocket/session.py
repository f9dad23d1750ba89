"""The application's side of one WebSocket: ASGI `receive` and `send`, and the task that runs the application.

In: `receive` takes messages out of the connection's inbox. There is no queue, event or timer between the parser and
the application; a future wakes `receive` when the inbox was empty.
Out: `send` encodes a message and writes it to the transport at once. While more messages wait for the application,
frames go into the cork and leave together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from asgiws.protocol.http.head import RequestHead
from asgiws.protocol.websocket.closing import Close, Drain, Moved, State, check_close
from asgiws.protocol.websocket.frames import BINARY_HEADS, TEXT_HEADS
from asgiws.protocol.websocket.receiver import FRESH_WINDOW, KEPT_WINDOW
from asgiws.server.asgi import DRAIN_EVENT, DRAIN_SUBSCRIBE, ClientDisconnected, Event, Scope
from asgiws.server.scope import Peer, websocket_scope
from asgiws.server.state.registry import HANDING_OVER
from asgiws.server.websocket.connection import WebSocketConnection
from asgiws.server.websocket.cork import CORK_MOST_BYTES, Cork
from asgiws.server.websocket.subscriptions import ConnectionExtension, subscriptions_of
from asgiws.telemetry.access_log import log_websocket_open
from asgiws.topics.extension import TOPIC_EVENTS

__all__ = ["WebSocketSession", "begin_session"]

_OPEN: Final = State.OPEN
"""Where a message passes, a name is faster than an attribute."""
# Every 128th message of a connection lets the loop turn, and every 128th disconnect event.
_TURN_MASK: Final = 127


def begin_session(
    connection: WebSocketConnection, head: RequestHead, peer: Peer, subprotocols: list[str], early: bytes
) -> None:
    """Let a connection take over its transport, with what has followed the head, and start its application."""
    worker, openings = connection.worker, connection.worker.admission.openings
    scope = websocket_scope(worker, head, peer, subprotocols, ConnectionExtension(connection))
    connection.transport.set_protocol(connection)
    if connection.flow.reading_paused:
        connection.flow.resume_reading()
    if early:
        connection.receiver.hold(early)
    if openings.most:
        openings.begin(connection)
    worker.registry.start(WebSocketSession(connection).run(scope), head.target)


class WebSocketSession:
    """One application that serves one connection, from the handshake until it returns."""

    __slots__ = ("_connect_owed", "_connection", "_repeats", "_short_below")

    def __init__(self, connection: WebSocketConnection) -> None:
        self._connection = connection
        self._connect_owed = True
        """Whether `websocket.connect`, which is always the first event (ASGI W4), was not received yet."""
        self._short_below = 126
        """Messages of fewer characters than this are framed in `send`, without the encoder."""
        self._repeats = 0
        """How often `receive` has returned the disconnect event."""

    async def run(self, scope: Scope) -> None:
        """Run the application, and end the connection with it (ASGI C6, W2)."""
        try:
            application = self._connection.worker.app(scope, self.receive, self.send)
            del scope  # for an application that lets go of it, too, it is gone
            await application
        except BaseException as raised:
            self._end(raised)
        else:
            self._end(None)

    def _end(self, raised: BaseException | None) -> None:
        """End the connection, whose application has returned or raised.

        Apart from `run`, whose frame stays as long as the connection and should be small.
        """
        connection, worker, error = self._connection, self._connection.worker, None
        closing, incidents = connection.closing, worker.incidents
        if raised is not None:
            error = incidents.fault_in(raised)
            if isinstance(raised, ClientDisconnected) and closing.ended_by == "app":
                incidents.report_fault("sent a message after it had closed websocket", connection.path)
        if error is not None:
            incidents.report_fault("raised in websocket", connection.path, error)
        complains = error is None and worker.registry.phase < HANDING_OVER
        if closing.state == State.CONNECTING:
            if complains:
                incidents.report_fault("returned without accepting or refusing websocket", connection.path)
            connection.deny(connection.opening().refuse(500, []), "app")
        elif closing.state == State.DENYING:
            if complains:
                incidents.report_fault("left its answer incomplete to websocket", connection.path)
            connection.abort()
        elif closing.state == State.OPEN:
            connection.begin_close(Close(1000, "") if error is None else Close(1011, "internal error"), "app")
        elif closing.state == State.CLOSED:
            # Messages that the application received after the connection was gone
            worker.counters.messages_in += connection.receiver.messages_in
        if worker.admission.openings.most:
            worker.admission.openings.end(connection)
        worker.registry.on_application_end()

    # ---- in

    async def receive(self) -> Event:
        """ASGI `receive`: return the next message; after the last one, the disconnect event on every call."""
        if self._connect_owed:
            self._connect_owed = False
            return {"type": "websocket.connect"}
        connection = self._connection
        inbox = connection.inbox
        while True:
            if inbox and connection.closing.state >= _OPEN:
                item = inbox.pop(0)
                if isinstance(item, str):
                    connection.receiver.queued -= len(item)
                    return {"type": "websocket.receive", "text": item}
                if isinstance(item, bytes):
                    connection.receiver.queued -= len(item)
                    return {"type": "websocket.receive", "bytes": item}
                if isinstance(item, Drain):
                    return {"type": DRAIN_EVENT, "seconds": item.seconds_left(connection.worker.loop.time())}
                connection.end_with(item)
            elif (
                connection.receiver.blocked
                and connection.response is None
                and connection.closing.state != State.CLOSING
            ):
                # The inbox was full. The other connections get a turn before the next part of it is parsed.
                connection.parse_held()
                await asyncio.sleep(0)
            elif connection.closing.state <= _OPEN:
                if connection.cork is not None:
                    connection.flush()
                waiter = connection.worker.loop.create_future()
                if connection.waiter is not None:
                    # Another task receives, too, or did: it is woken with this one, also when this one is cancelled.
                    waiter.add_done_callback(_waking(connection.waiter))
                connection.waiter = waiter
                await waiter
            else:
                self._repeats += 1
                if not self._repeats & _TURN_MASK:
                    await asyncio.sleep(0)  # an application may repeat it without a pause
                item = connection.closing.end = connection.closing.final(inbox)
                return {"type": "websocket.disconnect", "code": item.code, "reason": item.reason}

    # ---- out

    async def send(self, message: Event) -> None:
        """ASGI `send`. Raises ClientDisconnected once the connection is closed, ValueError and the like for misuse."""
        connection = self._connection
        if message["type"] != "websocket.send" or connection.closing.state != _OPEN:
            await self._send_other(message)
            return
        data: Any = message.get("text")
        if type(data) is not str or message.get("bytes") is not None:
            data = _only_payload(message)
        encoder, size = connection.encoder, len(data)
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
        frame_bytes, cork = len(frame), connection.cork
        connection.messages_out += 1
        connection.bytes_out += frame_bytes
        if cork is not None or connection.inbox:
            # Not a method of the cork: a call less for each message of a burst
            if cork is None:
                cork = connection.cork = Cork()
                connection.worker.loop.call_soon(connection.flush)
            cork.frames.append(frame)
            cork.held_bytes += frame_bytes
            if cork.held_bytes > CORK_MOST_BYTES:
                connection.flush()
        else:
            connection.transport.write(frame)
        if (
            connection.flow.write_paused
            or connection.transport.is_closing()
            or not connection.messages_out & _TURN_MASK
        ):
            await self._settle()

    async def _send_large(self, data: str | bytes) -> None:
        """Send a message that is compressed by another thread, or that need not be copied."""
        connection = self._connection
        encoder, worker = connection.encoder, connection.worker
        parts: tuple[bytes, ...]
        if encoder.compresses:
            parts = (await worker.encoders.encode_large(encoder, data, worker.loop),)
            if connection.closing.state != State.OPEN:
                raise self._disconnected()
        else:
            parts = encoder.encode_parts(data)
        connection.messages_out += 1
        connection.bytes_out += sum(map(len, parts))
        connection.flush()
        for part in parts:  # not `writelines`, which does not pause writing in some versions of Python
            connection.transport.write(part)
        if (
            connection.flow.write_paused
            or connection.transport.is_closing()
            or not connection.messages_out & _TURN_MASK
        ):
            await self._settle()

    async def _settle(self) -> None:
        """Wait while the transport is full, else let the loop turn. Raises ClientDisconnected for what did not leave.

        Otherwise an application that sends without a pause to a client that keeps up would never let the loop turn:
        no other connection would be served, and the application would never learn that this client has gone.
        """
        connection = self._connection
        if connection.flow.write_paused:
            await connection.flow.wait_writable()
        else:
            ending = connection.transport.is_closing()
            await asyncio.sleep(0)
            if not ending:
                return  # the message has left; `receive` reports a Close that arrived meanwhile
        if connection.closing.state >= State.CLOSING:
            raise self._disconnected()

    def _disconnected(self) -> ClientDisconnected:
        connection = self._connection
        code = connection.closing.final(connection.inbox).code
        return ClientDisconnected(f"websocket closed while sending ({code})")

    async def _send_other(self, message: Event) -> None:
        """Handle everything except a message on an open connection."""
        kind, connection = message["type"], self._connection
        closing, inbox = connection.closing, connection.inbox
        state = closing.state
        if state >= State.CLOSING:
            raise ClientDisconnected(f"{kind} after the websocket closed ({closing.final(inbox).code})")
        if state == State.OPEN:
            if kind in TOPIC_EVENTS:
                await subscriptions_of(connection).send(message)
                return
            if kind == DRAIN_SUBSCRIBE:
                closing.drain_notice().subscribe(inbox, connection.wake)
                return
            if kind != "websocket.close":
                raise RuntimeError(f"{kind} on an open websocket, allowed: websocket.send, websocket.close")
            code, reason = message.get("code"), message.get("reason")
            connection.begin_close(check_close(1000 if code is None else code, reason or ""), "app")
        elif state == State.DENYING:
            if kind != "websocket.http.response.body":
                raise RuntimeError(f"{kind} in an HTTP response, allowed: websocket.http.response.body")
            await self._send_denial(message)
        elif kind == "websocket.accept":
            self._accept(message)
        elif kind == "websocket.close":
            connection.deny(connection.opening().refuse(403, []), "app")
        elif kind == "websocket.http.response.start":
            connection.opening().begin_denial(message)
            closing.advance(Moved.DENY_BEGAN)
        else:
            raise RuntimeError(
                f"{kind} before the websocket is open, allowed: websocket.accept, websocket.close, "
                "websocket.http.response.start"
            )

    def _accept(self, message: Event) -> None:
        """Complete the handshake (RFC 6455 §4.2.2) and open the connection."""
        connection = self._connection
        worker, receiver = connection.worker, connection.receiver
        response, agreement, connection.subprotocol = connection.opening().accept(message)
        connection.response = None
        connection.closing.advance(Moved.ACCEPTED)
        if agreement is not None:
            connection.encoder = worker.encoders.encoder_for(agreement)
            self._short_below = min(126, worker.deflate_settings.min_size_bytes)
            receiver.begin(KEPT_WINDOW if agreement.client_takeover else FRESH_WINDOW)
            connection.compression = worker.deflate_settings.mode
        connection.transport.write(response)
        worker.counters.websockets_accepted += 1
        if worker.admission.openings.most:
            worker.admission.openings.end(connection)
        if worker.config.access_log:
            log_websocket_open(connection.client, connection.path, connection.subprotocol, connection.compression)
        if receiver.blocked:
            connection.parse_held()
        if worker.registry.phase >= HANDING_OVER:
            connection.begin_shutdown()

    async def _send_denial(self, message: Event) -> None:
        connection = self._connection
        response = connection.opening()
        connection.transport.write(response.denial_body(message))
        if response.denied:
            connection.on_denied("app")
            return
        if connection.flow.write_paused:
            await connection.flow.wait_writable()
        else:
            await asyncio.sleep(0)  # so that a response without an end does not keep the loop from turning
        if connection.closing.state != State.DENYING:
            raise ClientDisconnected("client left while its handshake was answered")


def _waking(earlier: asyncio.Future[None]) -> Callable[[asyncio.Future[None]], None]:
    """Return a callback that wakes an earlier waiter."""

    def wake(waiter: asyncio.Future[None]) -> None:
        if not earlier.done():
            earlier.set_result(None)

    return wake


def _only_payload(message: Event) -> str | bytes:
    """Return the payload of `websocket.send` (ASGI W7). Raises ValueError or TypeError."""
    text, data = message.get("text"), message.get("bytes")
    if (text is None) == (data is None):
        seen = "neither text nor bytes" if text is None else "both text and bytes"
        raise ValueError(f"websocket.send with {seen}, allowed: exactly one of them")
    if isinstance(text, str):
        return text
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise TypeError(f"websocket.send: {type(text or data).__name__}, allowed: text as str, bytes as bytes")
