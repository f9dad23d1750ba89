"""One HTTP request and its response: the `receive` and `send` of an application (ASGI HTTP 2.5).

Made by the HTTP connection for each request and forgotten by it when the response is complete, so that an application
that goes on working after its response (a background task) cannot touch the next request. The connection feeds it body
bytes; it gives the connection bytes to write and says when it is done.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import IO, Final, Protocol, TypeVar

from asgiws.protocol.http.head import RequestHead
from asgiws.protocol.http.response import BODY, DONE, HEAD, TRAILERS, Response, encode_fields
from asgiws.server.asgi import ClientDisconnected, Event, Scope
from asgiws.server.connection.flow_control import FlowControl, turn_now_and_then, wait_in, wake
from asgiws.server.connection.sendfile import file_size
from asgiws.server.state.worker_state import WorkerState

__all__ = ["RequestCycle"]

_Size = TypeVar("_Size", bytes, int)
_Encoded = TypeVar("_Encoded")

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Final = b"Internal Server Error"
# Every 128th piece of a response lets the loop turn.
_TURN_MASK: Final = 127
_ALLOWED: Final = {
    HEAD: "http.response.start",
    BODY: "http.response.body, .pathsend and .zerocopysend",
    TRAILERS: "http.response.trailers",
}


class Wire(Protocol):
    """What an exchange needs of its connection."""

    worker: WorkerState

    def ended(self) -> bool:
        """Whether nothing can be sent any more."""

    def write(self, data: bytes) -> None:
        """Write at once."""

    async def send_part(self, file: IO[bytes], offset: int, count: int) -> None:
        """Send a part of a file."""

    def on_body_taken(self) -> None:
        """Make room for more of the request body."""

    def on_response_done(self, exchange: RequestCycle) -> None:
        """Go on behind a response that is complete."""

    def skips_body(self) -> bool:
        """Tell whether what is left of the request body will be read and dropped to keep the connection."""

    def abort(self) -> None:
        """End the TCP connection."""


class RequestCycle:
    """One request and its response."""

    __slots__ = (
        "_body", "_body_bytes", "_connection", "_disconnected", "_flow", "_unpaused", "_waiters", "began_s",
        "body_complete", "body_delivered", "expects_continue", "head", "response", "sent_bytes",
    )  # fmt: skip

    def __init__(self, connection: Wire, flow: FlowControl, head: RequestHead, body_complete: bool) -> None:
        self._connection = connection
        self._flow = flow
        self.head = head
        self.response = Response(
            head_only=head.method == "HEAD",
            http_1_0=head.http_version == "1.0",
            keep_alive=head.keep_alive,
            te_trailers=head.te_trailers,
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
        self._unpaused = 0
        """Calls of `receive` and `send` that may come without a pause between them; every 128th lets the loop turn."""
        self.sent_bytes = 0
        self.began_s = time.monotonic()

    async def run(self, scope: Scope) -> None:
        """Call the application, and end the exchange that it left (ASGI C6, C8)."""
        worker = self._connection.worker
        error: BaseException | None = None
        try:
            await worker.app(scope, self.receive, self.send)
        except BaseException as raised:
            error = worker.incidents.judge(raised)
        if error is not None or self.response.state != DONE:
            self._end_unfinished(error)
        worker.registry.on_application_end()

    async def receive(self) -> Event:
        """ASGI `receive`: the request body in pieces, then the disconnect once the exchange is over."""
        while True:
            if self.response.state == DONE:
                return await self._disconnect_event()
            if self._body or (self.body_complete and not self.body_delivered):
                body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
                self._body.clear()
                self._body_bytes = 0
                self.body_delivered = self.body_complete
                if not self.body_complete:
                    self._connection.on_body_taken()
                return {"type": "http.request", "body": body, "more_body": not self.body_complete}
            if self._disconnected:
                return await self._disconnect_event()
            if self.expects_continue:
                self.expects_continue = False
                if self.response.head_pending:
                    self._connection.write(_CONTINUE)
            await wait_in(self._waiters, self._connection.worker.loop)

    async def send(self, message: Event) -> None:
        """ASGI `send`. Raises ClientDisconnected once the client is gone, ValueError and the like for misuse."""
        kind = message["type"]
        response, connection = self.response, self._connection
        if response.state == DONE:
            # ASGI H15: messages after the response are ignored; the loop turns, however many there are.
            self._unpaused += 1
            await turn_now_and_then(self._unpaused)
            return
        if connection.ended():
            raise ClientDisconnected(f"{kind} after the client left")
        if kind == "http.response.body" and response.state == BODY:
            body = message.get("body", b"")
            if type(body) is not bytes:
                body = _as_bytes(body)
            connection.write(self._checked(response.body, body, bool(message.get("more_body", False))))
            self.sent_bytes += len(body)
        elif kind == "http.response.start" and response.state == HEAD:
            if self.expects_continue or (not self.body_complete and not connection.skips_body()):
                # The client has not sent its body and need not, and what it sends next cannot be told from a body; or
                # there is too much of it to be read to its end for the sake of the next request.
                response.keep_alive = False
            response.start(
                message["status"],
                message.get("headers", ()),
                connection.worker.default_fields,
                bool(message.get("trailers", False)),
            )
            return  # it leaves with the first piece of the body
        elif kind == "http.response.trailers" and response.state == TRAILERS:
            more = bool(message.get("more_trailers", False))
            connection.write(response.trailers(message.get("headers", ()), more))
        elif kind in ("http.response.pathsend", "http.response.zerocopysend") and response.state == BODY:
            await self._send_file(message)
        elif kind == "http.response.early_hint" and response.state == HEAD:
            if self.head.http_version == "1.1":
                # RFC 8297 §2; the application sends it before it starts the response
                links = encode_fields((b"link", link) for link in message["links"])
                connection.write(b"HTTP/1.1 103 Early Hints\r\n" + links + b"\r\n")
        else:
            raise RuntimeError(f"{kind} out of order, allowed now: {_ALLOWED[response.state]}")
        self._unpaused += 1
        flow = self._flow
        if response.state == DONE:
            # Once the response is whole, the end of the connection is no news to the application.
            connection.on_response_done(self)
            if flow.write_paused:
                await flow.wait_writable()
        elif flow.write_paused or connection.ended() or not self._unpaused & _TURN_MASK:
            # Without a pause, others were never served and the application never learned that its client has gone.
            await (flow.wait_writable() if flow.write_paused else asyncio.sleep(0))
            if connection.ended():
                raise ClientDisconnected("client left while a response was sent")

    async def _disconnect_event(self) -> Event:
        """Give the last event, however often it is asked for."""
        self._unpaused += 1
        await turn_now_and_then(self._unpaused)
        return {"type": "http.disconnect"}

    async def _send_file(self, message: Event) -> None:
        """Send a file, or a part of an open one (ASGI E3, E4)."""
        if message["type"] == "http.response.pathsend":
            # Opening a local file takes microseconds; reading it does not happen on the loop.
            with open(message["path"], "rb") as file:  # noqa: ASYNC230
                await self._send_part(file, 0, file_size(file), more=False)
            return
        opened = message["file"]
        descriptor = opened if isinstance(opened, int) else opened.fileno()
        with open(descriptor, "rb", closefd=False) as file:  # noqa: ASYNC230
            # A file object reads ahead: it and its descriptor stand in two places.
            stands = os.lseek(descriptor, 0, os.SEEK_CUR)
            offset, count = message.get("offset"), message.get("count")
            start = offset if offset is not None else stands if opened is descriptor else opened.tell()
            size = max(0, file_size(file) - start) if count is None else count
            if start < 0 or size < 0:
                raise ValueError(f"offset {offset}, count {count}, allowed: 0 or more")
            try:
                await self._send_part(file, start, size, bool(message.get("more_body", False)))
            finally:
                os.lseek(descriptor, stands, os.SEEK_SET)  # asyncio moves it, uvloop does not
        if offset is None:
            # As sendfile(2) does
            if opened is descriptor:
                os.lseek(descriptor, start + size, os.SEEK_SET)
            else:
                opened.seek(start + size)

    async def _send_part(self, file: IO[bytes], offset: int, count: int, more: bool) -> None:
        before, after = self._checked(self.response.reserve, count, more)
        self._connection.write(before)
        if self.response.sends_body:
            try:
                await self._connection.send_part(file, offset, count)
            except BaseException:
                # A part of what was promised is missing, whatever the reason is: also a cancelled application.
                self._connection.abort()
                raise
            self.sent_bytes += count
            self._connection.write(after)

    def _checked(self, encode: Callable[[_Size, bool], _Encoded], size: _Size, more: bool) -> _Encoded:
        """Encode; a body of another length than the head has promised must not pass for a whole response."""
        try:
            return encode(size, more)
        except ValueError:
            self._connection.abort()
            raise

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
            wake(self._waiters)
        return self._body_bytes >= self._connection.worker.limits.body_buffer_bytes

    def disconnect(self) -> None:
        """Tell the application that the client is gone."""
        self._disconnected = True
        wake(self._waiters)

    def wake(self) -> None:
        """Let `receive` look again: the response is done."""
        if self._waiters:
            wake(self._waiters)

    @property
    def waits_for_body(self) -> bool:
        """Whether the application sleeps in `receive` until more of the body comes."""
        return bool(self._waiters) and not self.body_complete

    def _end_unfinished(self, error: BaseException | None) -> None:
        """Log what the application raised, or that it sent no whole response, and end that."""
        worker, name = self._connection.worker, self.head.method.encode() + b" " + self.head.target
        if error is not None:
            worker.incidents.report_fault("raised in", name, error)
        if self.response.state == DONE or self._connection.ended():
            return
        if error is None and not worker.registry.stopping:
            worker.incidents.report_fault("returned without a whole response to", name)
        if self.response.state == HEAD:
            self._fail()
        else:
            self._connection.abort()

    def _fail(self) -> None:
        response = self.response
        response.keep_alive = False
        response.start(
            500,
            [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_FAILED))],
            self._connection.worker.default_fields,
            trailers=False,
        )
        self._connection.write(response.body(_FAILED, more=False))
        self.sent_bytes = len(_FAILED)
        self._connection.on_response_done(self)


def _as_bytes(body: object) -> bytes:
    if isinstance(body, bytearray | memoryview | bytes):
        return bytes(body)
    raise TypeError(f"http.response.body: body is {type(body).__name__}, allowed: bytes")
