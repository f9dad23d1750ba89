"""The answer to a WebSocket handshake, as bytes: a 101, an HTTP response instead, or a refusal by the server.

The HTTP response is the ASGI extension `websocket.http.response`. A refusal is an HTTP status or, because a page in a
browser sees none, a 101 and a Close right after it (`--refusal`). Nothing here writes; the connection does.
"""

from __future__ import annotations

from collections.abc import Iterable

from asgiws.protocol.errors import Violation
from asgiws.protocol.http.fields import Header
from asgiws.protocol.http.rejection import encode_rejection
from asgiws.protocol.http.response import Response, ResponseState
from asgiws.protocol.websocket.closing import Close, encode_close
from asgiws.protocol.websocket.deflate import Agreement, negotiate
from asgiws.protocol.websocket.handshake import Handshake, encode_accept
from asgiws.server.asgi import Event
from asgiws.server.state.registry import HANDING_OVER
from asgiws.server.state.retry_after import choose_retry_after, with_retry_after
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.websocket.closing_handshake import shutdown_close
from asgiws.telemetry.access_log import ClientAddress

__all__ = ["HandshakeResponse", "encode_refusal"]


def encode_refusal(worker: WorkerState, violation: Violation, handshake: Handshake | None = None) -> tuple[bytes, int]:
    """Encode the answer to a request that broke a rule; return it with the status or close code in it.

    Only what exceeds a limit and is a valid `handshake` otherwise can be answered with a Close.
    """
    seconds = choose_retry_after(worker.config.retry_after)
    rule = violation.rule
    if handshake is not None and worker.config.refusal == "close":
        return _accept_and_close(worker, handshake, Close(1013, with_retry_after(rule.name, seconds)))
    return encode_rejection(violation, seconds), rule.code


def _accept_and_close(worker: WorkerState, handshake: Handshake, close: Close) -> tuple[bytes, int]:
    # Browsers fail a connection, and show no close code, when they offered subprotocols and none was chosen.
    subprotocol = handshake.subprotocols[0] if handshake.subprotocols else None
    return encode_accept(handshake, subprotocol, None, (), worker.default_fields) + encode_close(close), close.code


class HandshakeResponse:
    """The answer to one handshake, kept until it is complete."""

    __slots__ = ("_handshake", "_refused_with", "_response", "_worker")

    def __init__(self, worker: WorkerState, handshake: Handshake) -> None:
        self._worker = worker
        self._handshake = handshake
        self._response: Response | None = None
        """The HTTP response that replaces the 101."""
        self._refused_with = 0

    @property
    def status(self) -> int:
        """The status of the HTTP response, or the close code of a refusal; 0 before there is one."""
        return self._refused_with if self._response is None else self._response.status

    @property
    def closes(self) -> bool:
        """Whether the answer ends with a Close."""
        return self.status >= 1000

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

    def reject(self, violation: Violation, client: ClientAddress, path: bytes) -> bytes:
        """Count and log a handshake that exceeds a limit, and encode its refusal."""
        answer, self._refused_with = encode_refusal(self._worker, violation, self._handshake)
        self._worker.incidents.reject(violation, client, path, self._refused_with)
        return answer

    def refuse_for_stop(self) -> bytes:
        """Encode the refusal of a handshake that the application cannot answer, because the server stops.

        Where another process takes over, no client is refused: it receives the Close that it would have received after
        its accept, and reconnects.
        """
        worker = self._worker
        if worker.config.refusal == "http" and worker.registry.phase != HANDING_OVER:
            return self.refuse(503, [(b"retry-after", b"%d" % choose_retry_after(worker.config.retry_after))])
        answer, self._refused_with = _accept_and_close(worker, self._handshake, shutdown_close(worker.config))
        return answer

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
