"""A handshake that waits for a place with the application (`--max-opening`): no task, no scope, only its parsed head.

What the handshake asks for is parsed again when its turn comes (10 us): 64 KiB of subprotocols are a megabyte of names.

Takes over from the HTTP connection, and hands over to a `WebSocketConnection` on the same transport when its turn
comes; `asgiws.server.state.openings` keeps the order. In between, the client can leave, and its patience or that of the
server (`--handshake-timeout`) can end.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from asgiws.protocol import errors
from asgiws.protocol.errors import Violation
from asgiws.protocol.http.head import RequestHead
from asgiws.protocol.websocket.handshake import Handshake, check_handshake
from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.connection.lingering_close import LingeringClose
from asgiws.server.scope import Peer
from asgiws.server.state.registry import HANDING_OVER
from asgiws.server.state.worker_state import WorkerState
from asgiws.server.websocket.connection import WebSocketConnection
from asgiws.server.websocket.handshake_response import HandshakeResponse
from asgiws.server.websocket.session import begin_session
from asgiws.telemetry.access_log import log_websocket_refused

__all__ = ["EARLY_MOST_BYTES", "WaitingHandshake"]

EARLY_MOST_BYTES: Final = 64 * 1024
"""Bytes after the head above which reading stops; clients send none before the 101."""


class WaitingHandshake(asyncio.Protocol):
    """A connection between its handshake request and its turn."""

    __slots__ = (
        "_began_s", "_early", "_flow", "_head", "_lingering", "_peer", "_ticks", "_transport", "_waits",
        "_worker",
    )  # fmt: skip

    spreads_drain = False

    def __init__(
        self, worker: WorkerState, transport: asyncio.Transport, flow: FlowControl, peer: Peer, head: RequestHead
    ) -> None:
        """`head` has passed `check_handshake`."""
        self._worker = worker
        self._transport = transport
        self._flow = flow
        self._peer = peer
        self._head = head
        self._early = bytearray()
        self._ticks = 0
        self._began_s = time.monotonic()
        self._waits = True
        self._lingering: LingeringClose | None = None

    def begin(self, early: bytes) -> None:
        """Take over the transport, with what has followed the head, and join the queue."""
        self._transport.set_protocol(self)
        self._flow.resume_reading()
        if self._worker.registry.phase >= HANDING_OVER:
            self.begin_shutdown()
        else:
            self._worker.admission.openings.wait(self)
            self.data_received(early)

    # ---- called by the transport

    def data_received(self, data: bytes) -> None:
        """Keep what the client sends too early."""
        if self._waits:
            self._early += data
            if len(self._early) > EARLY_MOST_BYTES:
                self._flow.pause_reading()

    def eof_received(self) -> bool:
        """End: a client that half-closes before the 101 is gone."""
        return False

    def pause_writing(self) -> None:
        """Record it."""
        self._flow.pause_writing()

    def resume_writing(self) -> None:
        """Record it."""
        self._flow.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Leave the queue."""
        worker = self._worker
        if self._leave_queue():
            worker.counters.websockets_abandoned += 1
            self._log_refused(0, "client")
        self._flow.end()
        worker.registry.remove(self)
        worker.admission.release(self._peer.via, self._peer.tenant)

    # ---- called by the sweep and the server

    def on_tick(self, second_passed: bool) -> None:
        """Count one tick towards the deadline."""
        worker = self._worker
        self._ticks += 1
        if self._lingering is not None:
            self._lingering.on_tick()
        elif worker.deadlines.handshake and self._ticks >= worker.deadlines.handshake:
            most, waited_s = worker.config.max_opening, worker.config.handshake_timeout
            reason = f"{waited_s:g} s without a place among {most} handshakes with the application"
            fault = Violation(errors.TOO_MANY_OPENINGS, reason)
            response = HandshakeResponse(worker, self._parse())
            self._end(response.reject(fault, self._peer.client, self._head.target), response.status, fault.rule.name)

    def begin_shutdown(self) -> None:
        """Answer: the server stops, and the turn of this handshake will not come."""
        if self._lingering is None:
            response = HandshakeResponse(self._worker, self._parse())
            self._end(response.refuse_for_stop(), response.status, "")

    def abort(self) -> None:
        """End the TCP connection now."""
        self._transport.abort()

    # ---- called by the queue

    def begin_opening(self) -> None:
        """Hand over to a WebSocket connection and its application: a place is free."""
        worker, handshake = self._worker, self._parse()
        self._waits = False
        worker.counters.opening_waits.add(time.monotonic() - self._began_s)
        websocket = WebSocketConnection(worker, self._transport, self._flow, self._peer, self._head.target, handshake)
        worker.registry.replace(self, websocket)
        begin_session(websocket, self._head, self._peer, handshake.subprotocols, bytes(self._early))

    def _parse(self) -> Handshake:
        handshake = check_handshake(self._head)
        assert not isinstance(handshake, Violation), "it was checked before"
        return handshake

    # ---- ends

    def _end(self, answer: bytes, status: int, rule: str) -> None:
        """Write the answer, and close the TCP connection once it has left."""
        self._leave_queue()
        self._worker.counters.websockets_rejected += 1
        self._transport.write(answer)
        self._log_refused(status, "server", rule)
        self._lingering = LingeringClose(self._transport, self._worker.deadlines.close, discard=True)

    def _leave_queue(self) -> bool:
        """Leave the queue; return whether it was in it."""
        was_waiting, self._waits = self._waits, False
        self._worker.admission.openings.leave(self)
        self._early.clear()
        return was_waiting

    def _log_refused(self, status: int, by: str, rule: str = "") -> None:
        if self._worker.config.access_log:
            log_websocket_refused(
                self._peer.client, self._head.target, status, ended_by=by, rule=rule,
                seconds=time.monotonic() - self._began_s,
            )  # fmt: skip
