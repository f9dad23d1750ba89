"""One HTTP request and its response: the `receive` and `send` of an application (ASGI HTTP 2.5).

Made by the HTTP connection for each request and forgotten by it when the response is complete, so that an application
that goes on working after its response (a background task) cannot touch the next request. The connection feeds it body
bytes; it gives the connection bytes to write and says when it is done.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from asgiws.protocol.http1 import RequestHead, header_tokens
from asgiws.protocol.response import BODY, DONE, HEAD, TRAILERS, Response
from asgiws.server.context import ClientDisconnected, Event, Scope
from asgiws.telemetry.logs import LOG, escape

if TYPE_CHECKING:
    from asgiws.server.http import HTTPConnection

__all__ = ["Exchange"]

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Final = b"Internal Server Error"


class Exchange:
    """One request and its response."""

    __slots__ = (
        "_body", "_body_bytes", "_connection", "_disconnected", "_waiters", "began_s", "body_complete",
        "body_delivered", "expects_continue", "head", "response", "sent_bytes",
    )  # fmt: skip

    def __init__(self, connection: HTTPConnection, head: RequestHead, body_complete: bool) -> None:
        self._connection = connection
        self.head = head
        self.response = Response(
            head_only=head.method == "HEAD",
            http_1_0=head.http_version == "1.0",
            keep_alive=head.keep_alive,
            te_trailers=_accepts_trailers(head),
        )
        self._body: list[bytes] = []
        self._body_bytes = 0
        self.body_complete = body_complete
        """Whether the whole request body has come."""
        self.body_delivered = False
        """Whether the application has had the last of it."""
        self.expects_continue = head.expect_continue and not body_complete
        """Whether the client waits for 100 Continue before it sends the body (RFC 9110 §10.1.1)."""
        self._waiters: list[asyncio.Future[None]] = []
        self._disconnected = False
        self.sent_bytes = 0
        self.began_s = time.monotonic()

    async def run(self, scope: Scope) -> None:
        """Call the application, and end the exchange that it left (ASGI C6, C8)."""
        context = self._connection.context
        error: BaseException | None = None
        try:
            await context.app(scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except asyncio.CancelledError as raised:
            error = None if context.stopping else raised
        except BaseException as raised:
            error = raised
        if error is not None:
            context.counters.app_errors += 1
            LOG.error("application raised in %s %s", escape(self.head.method), escape(self.head.target), exc_info=error)
        if self.response.state == DONE or self._connection.lost:
            return
        if self.response.state == HEAD:
            if error is None and not context.stopping:
                LOG.error(
                    "application returned without a response to %s %s", escape(self.head.method),
                    escape(self.head.target),
                )  # fmt: skip
            self._fail()
        else:
            if error is None and not context.stopping:
                LOG.error(
                    "application returned with an incomplete response to %s %s", escape(self.head.method),
                    escape(self.head.target),
                )  # fmt: skip
            self._connection.abort()

    async def receive(self) -> Event:
        """ASGI `receive`: the request body in pieces, then the disconnect once the exchange is over."""
        while True:
            if self._body or (self.body_complete and not self.body_delivered and not self._disconnected):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body.clear()
                self._body_bytes = 0
                self.body_delivered = self.body_complete
                if not self.body_complete:
                    self._connection.on_body_taken()
                return {"type": "http.request", "body": body, "more_body": not self.body_complete}
            if self._disconnected or self.response.state == DONE:
                return {"type": "http.disconnect"}
            if self.expects_continue and not self.body_complete:
                self.expects_continue = False
                if self.response.state == HEAD:
                    self._connection.write(_CONTINUE)
            waiter = self._connection.context.loop.create_future()
            self._waiters.append(waiter)
            await waiter

    async def send(self, message: Event) -> None:
        """ASGI `send`. Raises ClientDisconnected once the client is gone, ValueError and the like for misuse."""
        kind = message["type"]
        response = self.response
        if self._connection.lost:
            raise ClientDisconnected(f"{kind} after the client left")
        if response.state == DONE:
            return  # ASGI H15: messages after the response are ignored
        if kind == "http.response.body" and response.state == BODY:
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = _as_bytes(body)
            more = bool(message.get("more_body", False))
            try:
                data = response.body(body, more)
            except ValueError:
                # The head has promised another length, so the client must not take this for a whole response.
                self._connection.abort()
                raise
            if data:
                self._connection.write(data)
            self.sent_bytes += len(body)
            if response.state == DONE:
                self._connection.on_response_done(self)
            if self._connection.write_paused:
                await self._connection.wait_writable()
        elif kind == "http.response.start" and response.state == HEAD:
            if self.expects_continue:
                # The client has not sent its body and need not; what it sends next cannot be told from a body.
                response.keep_alive = False
            response.start(
                message["status"],
                message.get("headers", ()),
                self._connection.context.default_fields,
                bool(message.get("trailers", False)),
            )
        elif kind == "http.response.trailers" and response.state == TRAILERS:
            data = response.trailers(message.get("headers", ()), bool(message.get("more_trailers", False)))
            if data:
                self._connection.write(data)
            if response.state == DONE:
                self._connection.on_response_done(self)
        else:
            allowed = {HEAD: "http.response.start", BODY: "http.response.body", TRAILERS: "http.response.trailers"}
            raise RuntimeError(f"{kind} out of order, allowed now: {allowed[response.state]}")

    # ---- called by the connection

    def feed(self, data: bytes, complete: bool) -> bool:
        """Take body bytes; gives whether the application is behind and reading should stop."""
        if data:
            self._body.append(data)
            self._body_bytes += len(data)
            if len(self._body) > 256:
                self._body = [b"".join(self._body)]
        self.expects_continue = False
        self.body_complete = complete
        if data or complete:
            self._wake()
        return self._body_bytes >= self._connection.context.limits.body_buffer_bytes

    def disconnect(self) -> None:
        """Tell the application that the client is gone."""
        self._disconnected = True
        self._wake()

    def wake(self) -> None:
        """Let `receive` look again: the response is done."""
        self._wake()

    @property
    def waits_for_body(self) -> bool:
        """Whether the application sleeps in `receive` until more of the body comes."""
        return bool(self._waiters) and not self.body_complete

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def _fail(self) -> None:
        response = self.response
        response.keep_alive = False
        response.start(
            500,
            [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_FAILED))],
            self._connection.context.default_fields,
            trailers=False,
        )
        self._connection.write(response.body(_FAILED, more=False))
        self.sent_bytes = len(_FAILED)
        self._connection.on_response_done(self)


def _accepts_trailers(head: RequestHead) -> bool:
    """RFC 9110 §6.5.1: a trailer is sent to a client that says `TE: trailers`."""
    return any(name == b"te" and b"trailers" in header_tokens([value]) for name, value in head.headers)


def _as_bytes(body: object) -> bytes:
    if isinstance(body, bytearray | memoryview | bytes):
        return bytes(body)
    raise TypeError(f"http.response.body: body is {type(body).__name__}, allowed: bytes")
