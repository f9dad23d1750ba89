"""One HTTP request and its response: the `receive` and `send` of an application (ASGI HTTP 2.5).

Made by the HTTP connection for each request and dropped by it when the response is complete, so that an application
that continues after its response (a background task) cannot touch the next request. The connection feeds it body bytes;
it writes to the connection and reports when it is done.

`send` is a table: `_ON_MESSAGE` has what the application may send in each state of its response, and what that does.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from asgiws.protocol.http.head import RequestHead
from asgiws.protocol.http.response import Response, ResponseState, encode_fields
from asgiws.server.asgi import ClientDisconnected, Event, Scope
from asgiws.server.connection.flow_control import FlowControl, turn_now_and_then, wait_in, wake
from asgiws.server.http.sendfile import FilePart, open_part
from asgiws.server.state.registry import HANDING_OVER
from asgiws.server.state.worker_state import WorkerState

__all__ = ["RequestCycle"]

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Final = b"Internal Server Error"
# Every 128th piece of a response lets the loop turn.
_TURN_MASK: Final = 127


class Wire(Protocol):
    """The connection, as a request uses it."""

    worker: WorkerState

    async def send_part(self, part: FilePart, ended: Callable[[], bool]) -> None:
        """Send a part of a file, unless the request has `ended`."""

    def on_body_taken(self) -> None:
        """Make room for more of the request body."""

    def on_response_done(self, cycle: RequestCycle) -> None:
        """Continue after a response that is complete."""

    def on_response_abandoned(self, cycle: RequestCycle) -> None:
        """End after a response that the application has left because its client has left."""

    def skips_body(self) -> bool:
        """Return whether what is left of the request body will be read and dropped to keep the connection."""

    def begin_shutdown(self) -> None:
        """End as the server stops."""

    def abort(self) -> None:
        """End the TCP connection."""


class RequestCycle:
    """One request and its response."""

    __slots__ = (
        "_body", "_body_bytes", "_client_left", "_connection", "_flow", "_last_sent", "_over", "_told", "_transport",
        "_unpaused", "_waiters", "began_s", "body_complete", "body_delivered", "expects_continue", "head", "response",
    )  # fmt: skip

    def __init__(
        self, connection: Wire, transport: asyncio.Transport, flow: FlowControl, head: RequestHead, body_complete: bool
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._flow = flow
        self.head = head
        self.response = Response(head.method == "HEAD", head.http_version == "1.0", head.keep_alive, head.te_trailers)
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.body_complete = body_complete
        """Whether the whole request body has arrived."""
        self.body_delivered = False
        """Whether the application has received the last of it."""
        self.expects_continue = not body_complete and head.expect_continue
        """Whether the client waits for 100 Continue before it sends the body (RFC 9110 §10.1.1)."""
        self._waiters: list[asyncio.Future[None]] = []
        self._client_left = False
        self._over = False
        """Whether the connection has ended this request; nothing of it can be sent any more."""
        self._told = False
        """Whether the application knows, before its response was complete, that the client has left."""
        self._last_sent = ""
        """The type of the last message that the application sent."""
        self._unpaused = 0
        """Calls of `receive` and `send` that may come without a pause between them; every 128th lets the loop turn."""
        self.began_s = time.monotonic()

    async def run(self, scope: Scope) -> None:
        """Call the application, and end the response that it left incomplete (ASGI C6, C8)."""
        worker = self._connection.worker
        error: BaseException | None = None
        try:
            application = worker.app(scope, self.receive, self.send)
            del scope  # for an application that lets go of it, too, it is gone
            await application
        except BaseException as raised:
            error = worker.incidents.fault_in(raised, client_left=self._told)
        if error is not None or self.response.state != ResponseState.DONE:
            self._end_unfinished(error)
        worker.registry.on_application_end()

    async def receive(self) -> Event:
        """ASGI `receive`: the request body in pieces, then the disconnect once the response is done."""
        while True:
            if self.response.state == ResponseState.DONE:
                return await self._disconnect_event()
            if self._body or (self.body_complete and not self.body_delivered):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body.clear()
                self._body_bytes = 0
                self.body_delivered = self.body_complete
                if not self.body_complete:
                    self._connection.on_body_taken()
                return {"type": "http.request", "body": body, "more_body": not self.body_complete}
            if self._client_left:
                self._told = True
                return await self._disconnect_event()
            if self.expects_continue:
                self.expects_continue = False
                if self.response.head_pending and not self.ended():
                    self._transport.write(_CONTINUE)
            await wait_in(self._waiters)

    async def send(self, message: Event) -> None:
        """ASGI `send`. Raises ClientDisconnected once the client has left, ValueError and the like for misuse."""
        kind = message["type"]
        response, flow = self.response, self._flow
        self._unpaused += 1
        on_message = _ON_MESSAGE[response.state].get(kind)
        if on_message is None or self._over or self._transport.is_closing():
            await self._ignore_or_raise(kind)
            return
        self._last_sent = kind
        sending = on_message(self, message)
        if sending is not None:
            await sending
        if response.state == ResponseState.DONE:
            # Once the response is complete, the end of the connection does not concern the application.
            self._connection.on_response_done(self)
            if flow.write_paused:
                await flow.wait_writable()
        elif flow.write_paused or not self._unpaused & _TURN_MASK:
            # Without a pause, other connections would starve, and the application would not learn that its client left.
            await (flow.wait_writable() if flow.write_paused else asyncio.sleep(0))
            if self.ended():
                self._raise_left(kind)

    async def _ignore_or_raise(self, kind: str) -> None:
        """Ignore what follows a whole response (ASGI H15); raise for what the client or the order has no place for."""
        if self.response.state == ResponseState.DONE:
            await turn_now_and_then(self._unpaused)
            return
        if self._told or self.ended():
            self._raise_left(kind)
        raise RuntimeError(f"{kind} out of order, allowed now: {', '.join(_ON_MESSAGE[self.response.state])}")

    # ---- the messages of an application

    def _on_start(self, message: Event) -> None:
        """Store the head; it leaves with the first piece of the body."""
        response, connection = self.response, self._connection
        worker = connection.worker
        if self.expects_continue or (not self.body_complete and not connection.skips_body()):
            # The client has not sent its body and need not, and what it sends next cannot be told from a body; or
            # there is too much of it to be read to its end for the sake of the next request.
            response.keep_alive = False
        response.start(
            message["status"], message.get("headers", ()), worker.default_fields, message.get("trailers", False)
        )
        if response.event_stream and worker.registry.phase >= HANDING_OVER:
            connection.begin_shutdown()

    def _on_early_hint(self, message: Event) -> None:
        """Send 103 Early Hints (RFC 8297 §2, ASGI E5) to a client that knows interim responses."""
        if self.head.http_version == "1.1":
            links = encode_fields((b"link", link) for link in message["links"])
            self._transport.write(b"HTTP/1.1 103 Early Hints\r\n" + links + b"\r\n")

    def _on_body(self, message: Event) -> None:
        body = message.get("body", b"")
        if type(body) is not bytes:
            body = _as_bytes(body)
        try:
            data = self.response.body(body, message.get("more_body", False))
        except ValueError:
            self._connection.abort()  # a body of another length than the head says must not pass for a whole response
            raise
        self._transport.write(data)

    def _on_trailers(self, message: Event) -> None:
        more = bool(message.get("more_trailers", False))
        self._transport.write(self.response.trailers(message.get("headers", ()), more))

    async def _on_file(self, message: Event) -> None:
        """Send a file, or a part of an open one (ASGI E3, E4)."""
        response, connection = self.response, self._connection
        more = message["type"] == "http.response.zerocopysend" and bool(message.get("more_body", False))
        with open_part(message) as part:
            try:
                before, after = response.reserve(part.size, more)
                self._transport.write(before)
                if response.sends_body:
                    await connection.send_part(part, self.ended)
                    response.sent_bytes += part.size
                    self._transport.write(after)
            except BaseException:
                # A part of what was promised is missing, whatever the reason is: also a cancelled application.
                connection.abort()
                raise

    # ---- called by the connection

    def feed(self, data: bytes, complete: bool) -> bool:
        """Add body bytes; return whether the application is behind and reading should stop."""
        if data:
            self._body.append(data)
            self._body_bytes += len(data)
            if len(self._body) > 256:
                self._body = [b"".join(self._body)]
        self.expects_continue = False
        self.body_complete = complete
        if data or complete:
            wake(self._waiters)
        return self._body_bytes >= self._connection.worker.limits.body_buffer_bytes

    def disconnect(self, *, over: bool) -> None:
        """Let `receive` return the disconnect; `over` when nothing can be sent any more, so that `send` raises."""
        self._client_left = True
        self._over = over
        if self._waiters:
            wake(self._waiters)

    @property
    def waits_for_body(self) -> bool:
        """Whether the application sleeps in `receive` until more of the body arrives."""
        return bool(self._waiters) and not self.body_complete

    @property
    def whole(self) -> bool:
        """Whether every byte of a response of known length was written, even if the application has not ended it."""
        response = self.response
        return not response.head_pending and (not response.sends_body or response.sent_bytes == response.length)

    # ---- ends

    def ended(self) -> bool:
        """Return whether nothing can be sent any more: the request is over, or the TCP connection is gone or closing.

        The loop reports a loss only when the application pauses; the transport knows before.
        """
        return self._over or self._transport.is_closing()

    async def _disconnect_event(self) -> Event:
        """Return the last event, however often it is asked for."""
        self._unpaused += 1
        await turn_now_and_then(self._unpaused)
        return {"type": "http.disconnect"}

    def _raise_left(self, kind: str) -> None:
        self._told = True
        raise ClientDisconnected(f"{kind} after the client left")

    def _end_unfinished(self, error: BaseException | None) -> None:
        """Log what the application raised, or that its response is incomplete, and end the response."""
        worker, connection, response = self._connection.worker, self._connection, self.response
        name = self.head.method.encode() + b" " + self.head.target
        if error is not None:
            worker.incidents.report_fault("raised in", name, error)
        if response.state == ResponseState.DONE or self.ended():
            return
        if self._told:
            connection.on_response_abandoned(self)
            return
        if error is None and worker.registry.phase < HANDING_OVER:
            last = f"its last message was {self._last_sent}" if self._last_sent else "it sent no message"
            if (
                worker.config.sendfile and response.head_pending
            ):  # some hold back the start until they have seen the body
                last += "; a middleware that does not know http.response.pathsend may have dropped it, serve without "
                last += "--sendfile"
            worker.incidents.report_fault(f"returned without a whole response ({last}) to", name)
        if response.head_pending:
            self._fail()
        else:
            connection.abort()

    def _fail(self) -> None:
        """Answer 500 in place of a response of which nothing was written."""
        http_1_0 = self.head.http_version == "1.0"
        self.response = response = Response(head_only=self.head.method == "HEAD", http_1_0=http_1_0, keep_alive=False)
        response.start(
            500,
            [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_FAILED))],
            self._connection.worker.default_fields,
            trailers=False,
        )
        self._on_body({"body": _FAILED})
        self._connection.on_response_done(self)


_OnMessage = Callable[[RequestCycle, Event], Awaitable[None] | None]
_ON_MESSAGE: Final[Mapping[int, Mapping[str, _OnMessage]]] = {
    ResponseState.NOT_STARTED: {
        "http.response.start": RequestCycle._on_start,
        "http.response.early_hint": RequestCycle._on_early_hint,
    },
    ResponseState.BODY: {
        "http.response.body": RequestCycle._on_body,
        "http.response.pathsend": RequestCycle._on_file,
        "http.response.zerocopysend": RequestCycle._on_file,
    },
    ResponseState.TRAILERS: {"http.response.trailers": RequestCycle._on_trailers},
    ResponseState.DONE: {},
}


def _as_bytes(body: object) -> bytes:
    if isinstance(body, bytearray | memoryview | bytes):
        return bytes(body)
    raise TypeError(f"http.response.body: body is {type(body).__name__}, allowed: bytes")
