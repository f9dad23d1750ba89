"""The answer to a WebSocket handshake, as bytes: a 101, or an HTTP response instead.

The HTTP response is the ASGI extension `websocket.http.response`. Nothing here writes; the session does.
"""

from __future__ import annotations

from collections.abc import Iterable

from asgiws.protocol.http.fields import Header
from asgiws.protocol.http.response import Response, ResponseState
from asgiws.protocol.websocket.deflate import Agreement, negotiate
from asgiws.protocol.websocket.handshake import Handshake, encode_accept
from asgiws.server.asgi import Event
from asgiws.server.state.worker_state import WorkerState

__all__ = ["HandshakeResponse"]


class HandshakeResponse:
    """The answer to one handshake, kept until it is complete."""

    __slots__ = ("_worker", "_handshake", "_response")

    def __init__(self, worker: WorkerState, handshake: Handshake) -> None:
        self._worker = worker
        self._handshake = handshake
        self._response: Response | None = None
        """The HTTP response that replaces the 101."""

    @property
    def status(self) -> int:
        """The status of the HTTP response; 0 before it has one."""
        return 0 if self._response is None else self._response.status

    @property
    def denied(self) -> bool:
        """Whether the whole HTTP response was encoded."""
        return self._response is not None and self._response.state == ResponseState.DONE

    def accept(self, message: Event) -> tuple[bytes, Agreement | None, str | None]:
        """Encode the 101; return it with what was negotiated. Raises ValueError or TypeError for a bad message."""
        worker = self._worker
        agreement = negotiate(self._handshake.extensions, worker.deflate_settings)
        subprotocol = message.get("subprotocol")
        response = encode_accept(
            self._handshake,
            subprotocol,
            None if agreement is None else agreement.response,
            message.get("headers") or (),
            worker.default_fields,
        )
        return response, agreement, subprotocol

    def refuse(self, status: int, fields: list[Header]) -> bytes:
        """Encode an HTTP error without a body (ASGI W5, W10)."""
        self._response = response = self._begin(status, [(b"content-length", b"0"), *fields])
        return response.body(b"", more=False)

    def begin_denial(self, message: Event) -> None:
        """Handle `websocket.http.response.start`."""
        self._response = self._begin(message["status"], message.get("headers") or ())

    def denial_body(self, message: Event) -> bytes:
        """Encode `websocket.http.response.body`."""
        body = message.get("body", b"")
        if not isinstance(body, bytes):
            raise TypeError(f"websocket.http.response.body: body is {type(body).__name__}, allowed: bytes")
        assert self._response is not None
        return self._response.body(body, bool(message.get("more_body", False)))

    def _begin(self, status: object, headers: Iterable[Iterable[object]]) -> Response:
        response = Response(head_only=False, http_1_0=False, keep_alive=False)
        response.start(status, headers, self._worker.default_fields, trailers=False)
        return response
