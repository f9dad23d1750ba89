"""When a client is too slow: it is dropped once none of the bytes that wait for it has left for `write_timeout`.

Until then, `send` waits for it (`asgiws.server.connection.flow_control`). Each byte that leaves restarts the time.
HTTP and WebSocket connections ask once a tick; a file that is being sent has a timer for each piece instead.
"""

from __future__ import annotations

import asyncio

from asgiws.server.connection.flow_control import FlowControl
from asgiws.server.state.deadlines import Deadlines
from asgiws.server.state.worker_state import WorkerState
from asgiws.telemetry.access_log import ClientAddress

__all__ = ["drop_slow_client", "is_too_slow"]


def is_too_slow(flow: FlowControl, deadlines: Deadlines) -> bool:
    """Count a tick in which bytes wait for a client; return whether the client is to be dropped."""
    return bool(deadlines.write) and flow.ticks_without_progress() >= deadlines.write


def drop_slow_client(worker: WorkerState, transport: asyncio.Transport, client: ClientAddress) -> None:
    """Count and log a slow client, and end its TCP connection."""
    worker.incidents.on_slow_consumer(client)
    transport.abort()
